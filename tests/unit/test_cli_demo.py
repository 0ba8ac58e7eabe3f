"""The demo's parts that need no daemon: what it requires, how it judges, what it prints."""

from __future__ import annotations

import io
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from containerd_aio.api.containerd.services.introspection.v1 import Plugin as RawPlugin
from containerd_aio.cli.demo import requirements, truth
from containerd_aio.cli.demo.display import Display
from containerd_aio.cli.demo.fates import Row, judge
from containerd_aio.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, PermissionDenied
from containerd_aio.events.event import Gap, Lagged
from containerd_aio.events.exits import ExitStatus
from containerd_aio.events.model import TaskExit
from containerd_aio.services.introspection import Plugin


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with all that is needed; returns its folder of programs."""
    for name in ("containerd", "runc", "containerd-shim-runc-v2"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setattr(requirements, "_search_path", lambda: str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("containerd_aio.testing.images.find_busybox", lambda: Path("/bin/busybox"))
    monkeypatch.setattr(requirements, "_check_overlayfs", lambda: None)
    return tmp_path


def test_nothing_is_missing(machine: Path) -> None:
    assert requirements.check_requirements(None) == str(machine / "containerd")
    assert requirements.check_requirements("/opt/containerd") == "/opt/containerd"


def test_not_root(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied, match="sudo containerd-aio demo"):
        requirements.check_requirements(None)


@pytest.mark.parametrize(
    ("program", "package"),
    [("containerd", "containerd runc"), ("runc", "runc"), ("containerd-shim-runc-v2", "containerd")],
)
def test_a_missing_program(machine: Path, program: str, package: str) -> None:
    (machine / program).unlink()
    with pytest.raises(FailedPrecondition, match=rf"no {program} on PATH.*apt-get install .*{package}"):
        requirements.check_requirements(None)


def test_no_busybox(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise InvalidArgument("there is no busybox")

    monkeypatch.setattr("containerd_aio.testing.images.find_busybox", missing)
    with pytest.raises(InvalidArgument):
        requirements.check_requirements(None)


def test_overlayfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystems = tmp_path / "filesystems"
    monkeypatch.setattr(requirements, "_FILESYSTEMS", filesystems)
    monkeypatch.setattr(requirements, "_MODULES", tmp_path)
    filesystems.write_text("nodev\ttmpfs\nnodev\toverlay\n")
    requirements._check_overlayfs()
    filesystems.write_text("nodev\ttmpfs\n")
    with pytest.raises(FailedPrecondition, match="has no overlayfs"):
        requirements._check_overlayfs()
    module = tmp_path / os.uname().release / "kernel" / "fs" / "overlayfs" / "overlay.ko.xz"
    module.parent.mkdir(parents=True)
    module.touch()
    requirements._check_overlayfs()


def _plugin(name: str, problem: str | None) -> Plugin:
    return Plugin("io.containerd.snapshotter.v1", name, (), (), {}, (), problem, RawPlugin())


def test_an_overlayfs_that_containerd_cannot_use() -> None:
    requirements.check_snapshotter([_plugin("native", "x"), _plugin("overlayfs", None)])
    with pytest.raises(FailedPrecondition, match=r"skip plugin: overlay on overlay.*mount a volume"):
        requirements.check_snapshotter([_plugin("overlayfs", "skip plugin: overlay on overlay")])
    with pytest.raises(FailedPrecondition, match="built without"):
        requirements.check_snapshotter([_plugin("native", None)])


# -- judging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "noted", "good"),
    [
        (ExitStatus(5), "5", True),
        (ExitStatus(0), "5", False),
        (ExitStatus(255, unknown=True), "5", True),
        (ExitStatus(5, unknown=True), "5", False),
        (ExitStatus(0), "", False),
        (ExitStatus(255, unknown=True), "", False),
    ],
)
def test_only_the_truth_or_unknown_is_good(status: ExitStatus, noted: str, good: bool) -> None:
    assert judge("p", "fate", status, noted).good is good


async def test_notes(tmp_path: Path) -> None:
    notes = truth.Notes.make(str(tmp_path))
    assert notes.read("x") == ""
    notes.write("x")
    Path(notes.folder, "x").write_text("7\n")
    assert notes.read("x") == "7"
    assert await notes.wait("x") == "7"
    assert await notes.wait("x", lambda text: int(text) > 6) == "7"


async def test_a_note_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "_PATIENCE", 0.05)
    with pytest.raises(DeadlineExceeded, match="'never'"):
        await truth.Notes.make(str(tmp_path)).wait("never")


async def test_the_end_of_a_process() -> None:
    async with await anyio.open_process(["cat"]) as process:
        assert process.stdin is not None
        await process.stdin.aclose()
        await truth.ended(process.pid)
        await process.wait()
    await truth.ended(process.pid)


@pytest.mark.parametrize(
    ("text", "kills"),
    [("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2), ("low 0\noom 1\noom_kill 1\n", 1), ("", 0)],
)
def test_counting_oom_kills(tmp_path: Path, text: str, kills: int) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text(text)
    assert truth.oom_kills(counter) == kills


# -- printing -----------------------------------------------------------------------------------------------------


def _printed(rows: list[Row], **console: object) -> str:
    out = io.StringIO()
    display = Display(Console(file=out, **console))  # type: ignore[arg-type]
    display.title("2.1.9", 1, "/run/x/containerd.sock")
    display.act("SIGKILL to web")
    display.event(TaskExit("web", "web", 42, 137, topic="/tasks/exit"))
    now = datetime.now(UTC)
    display.event(Gap(now, now + timedelta(seconds=1), "reason"))
    display.event(Lagged(3))
    display.table(rows, "2.1.9")
    return out.getvalue()


GOOD = Row("web", "exit 0", ExitStatus(0), "noted: exit 0", good=True)
UNKNOWN = Row("orphan", "exit 5", ExitStatus(255, unknown=True, source="missing"), "noted: exit 5", good=True)
LIE = Row("liar", "exit 1", ExitStatus(0), "noted: exit 1", good=False)


def test_a_log_has_plain_lines() -> None:
    text = _printed([GOOD])
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert re.search(r"^ +\d+\.\d{3}  » SIGKILL to web$", text, re.MULTILINE)
    assert re.search(r"exit +web +pid=42 exit_status=137$", text, re.MULTILINE)
    assert "-- gap of 1.00 s" in text
    assert "-- lagged: 3" in text
    assert re.search(r"^ web +exit 0 +exit 0 +noted: exit 0 +ok$", text, re.MULTILINE)
    assert "1 waits, no lie" in text
    assert "forgets" not in text


def test_a_terminal_has_colours() -> None:
    assert "\x1b[" in _printed([GOOD], force_terminal=True, color_system="standard")


def test_unknown_exits_are_explained() -> None:
    text = _printed([GOOD, UNKNOWN])
    assert "unknown (255)" in text
    assert "containerd 2.1.9 forgets the exit code" in text


def test_lies_are_called_so() -> None:
    text = _printed([GOOD, LIE])
    assert "WRONG" in text
    assert "1 of 2 waits did not tell the truth" in text
