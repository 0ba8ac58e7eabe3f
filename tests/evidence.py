"""Records what the tests show, on what, and how they ended: ``pytest --tables PATH``; see ``scripts/tables.py``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@cache
def tables() -> ModuleType:
    """``scripts/tables.py``, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "scripts" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tables"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def target(parameters: dict[str, Any]) -> str:
    """Return what a test ran on, by the parameters that were chosen for it."""
    kind, _, release = str(parameters.get("backend_name", "")).partition("-")
    if kind:
        return release if kind == "real" else "fake"
    return str(parameters.get("containerd_version", "fake"))


class Recorder:
    """Collects outcomes, and adds them to a record when the run ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evidence: dict[str, dict[str, dict[str, str]]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.note(item, report)
        return report

    def note(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Note how one phase of a test ended; the worst of all phases and parameters counts."""
        if report.skipped or (report.when != "call" and report.passed):
            return
        assert isinstance(item, pytest.Function)
        test = f"{item.path.relative_to(REPOSITORY)}::{item.originalname}"
        marked = [str(name) for mark in item.iter_markers("shows") for name in mark.args]
        on = target(item.callspec.params if hasattr(item, "callspec") else {})
        for name in dict.fromkeys([*tables().names_in(item.originalname), *marked]):
            outcomes = self.evidence.setdefault(test, {}).setdefault(name, {})
            if outcomes.get(on) != "failed":
                outcomes[on] = report.outcome

    def pytest_sessionfinish(self) -> None:
        known = tables().load_evidence(self.path)
        tables().save_evidence(tables().merge(known, self.evidence), self.path)
