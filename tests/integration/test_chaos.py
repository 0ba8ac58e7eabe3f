"""A short round of `chaos.py` on each release: every exit is told, and truly."""

from __future__ import annotations

import os
import random
from pathlib import Path

import anyio
import pytest

from tests.integration import chaos

SECONDS = float(os.environ.get("CONTAINERD_AIO_CHAOS_SECONDS") or 15)


@pytest.mark.timeout(SECONDS + 200)
async def test_E10_E11_E12_every_exit_is_accounted_for(
    containerd_binary: str, containerd_version: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = int(os.environ.get("CONTAINERD_AIO_CHAOS_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"seed {seed}: repeat with CONTAINERD_AIO_CHAOS_SEED={seed}")
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).parent.parent / "conftest.py"))
    with anyio.fail_after(SECONDS + 180):
        report = await chaos.play(containerd_binary, tmp_path, seconds=SECONDS, seed=seed, run=conftest.RUN)
    print(f"containerd {containerd_version}, {report}")
    assert report.wrong == []
    assert report.exits >= chaos.LIVES
    assert report.sessions > 1
