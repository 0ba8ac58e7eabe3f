"""E39: a daemon that is watched over: started again, killed when it hangs, adopted; and the log of a detached one."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from containerd_aio import Client, Supervision, Unavailable
from containerd_aio._daemon import log_keeper, supervision
from containerd_aio._daemon.probe import probe
from tests.integration.daemon_view import assert_nothing_left, zombies
from tests.unit.libcontainerd_support import seen

if TYPE_CHECKING:
    from containerd_aio import Daemon

QUICK = Supervision(interval=0.05, timeout=0.3, failures=3, first_delay=0.05)


async def _restarted(daemon: Daemon, count: int) -> None:
    await seen(lambda: daemon.restarts >= count)
    assert daemon.running


def _said(logs: Sequence[Any], words: str, times: int) -> bool:
    return sum(words in entry["event"] for entry in logs) >= times


async def test_E39_a_daemon_that_ends_is_started_again_and_reaped(
    private_daemon: Callable[..., Daemon],
) -> None:
    async with private_daemon(supervise=QUICK) as daemon, Client(daemon.address) as client:
        for n in (1, 2, 3):
            before = daemon.pid
            os.kill(before, (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT)[n - 1])
            await _restarted(daemon, n)
            assert daemon.pid != before
            assert int(Path(daemon.state, "containerd.pid").read_text()) == daemon.pid
            assert await client.is_serving()
        assert zombies() == []
    assert_nothing_left(daemon)


async def test_E39_a_daemon_that_hangs_is_killed_and_started_again(
    private_daemon: Callable[..., Daemon],
) -> None:
    async with private_daemon(supervise=QUICK) as daemon:
        before = daemon.pid
        with capture_logs() as logs:
            os.kill(before, signal.SIGSTOP)
            await _restarted(daemon, 1)
        assert daemon.pid != before
        failures = [entry["failures"] for entry in logs if "does not answer" in entry["event"]]
        assert failures == [1, 2, 3]
    assert_nothing_left(daemon)


async def test_E39_failures_count_only_in_a_row(
    private_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = 0

    async def counted(address: str, *, timeout: float) -> str:
        nonlocal answers
        version = await probe(address, timeout=timeout)
        answers += 1
        return version

    monkeypatch.setattr(supervision, "probe", counted)
    patient = Supervision(interval=0.05, timeout=0.2, failures=3)
    async with private_daemon(supervise=patient) as daemon:
        before = daemon.pid
        for _ in range(4):  # Docker would have killed it at the third
            with capture_logs() as logs:
                os.kill(before, signal.SIGSTOP)
                await seen(partial(_said, logs, "does not answer", 1))
                count = answers
                os.kill(before, signal.SIGCONT)
                await seen(lambda since=count: answers > since)
        assert (daemon.pid, daemon.restarts) == (before, 0)


async def test_E39_what_is_stopped_on_purpose_stays_so_until_it_is_started(
    private_daemon: Callable[..., Daemon],
) -> None:
    async with private_daemon(supervise=QUICK) as daemon:
        for end in (daemon.stop, daemon.kill):
            await end()
            assert not daemon.running
            await daemon.start()  # which it would refuse if it had been started meanwhile
        await daemon.restart()
        assert daemon.restarts == 0
        os.kill(daemon.pid, signal.SIGKILL)
        await _restarted(daemon, 1)


async def test_E39_a_daemon_that_does_not_start_is_tried_again(
    private_daemon: Callable[..., Daemon], tmp_path: Path, containerd_binary: str
) -> None:
    broken, binary = tmp_path / "broken", tmp_path / "containerd"
    binary.write_text(f'#!/bin/sh\ntest -e {broken} && exit 3\nexec {containerd_binary} "$@"\n')
    binary.chmod(0o755)
    async with private_daemon(binary=binary, supervise=QUICK) as daemon:
        broken.touch()
        with capture_logs() as logs:
            os.kill(daemon.pid, signal.SIGKILL)
            await seen(partial(_said, logs, "could not be started again", 3))
            broken.unlink()
            await _restarted(daemon, 1)
        delays = [entry["after_seconds"] for entry in logs if "is started again" in entry["event"]]
        assert delays[:3] == [0.05, 0.1, 0.2]
    assert_nothing_left(daemon)


async def test_E39_an_adopted_daemon_is_watched_over(private_daemon: Callable[..., Daemon]) -> None:
    async with private_daemon(detach=True) as first:
        pass
    async with private_daemon(root=first.root, state=first.state, supervise=QUICK) as second:
        assert second.pid == first.pid
        os.kill(second.pid, signal.SIGKILL)
        await _restarted(second, 1)
    assert_nothing_left(first)


async def test_the_log_of_a_detached_daemon_is_bounded_and_its_keeper_ends_with_it(
    private_daemon: Callable[..., Daemon], containerd_version: str
) -> None:
    async with private_daemon(detach=True) as first:
        keeper = _keeper(first)
        assert keeper is not None
    assert _keeper(first) == keeper
    async with private_daemon(root=first.root, state=first.state, detach=True) as second:
        os.kill(second.pid, signal.SIGKILL)
        await second.wait()
        await _gone(keeper)
        await second.start()
        again = _keeper(second)
        assert again not in {None, keeper}
    async with private_daemon(root=first.root, state=first.state):
        pass
    assert again is not None
    await _gone(again)
    assert_nothing_left(first)


def _keeper(daemon: Daemon) -> int | None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = entry.joinpath("cmdline").read_text().split("\0")
            except OSError:
                continue
            if log_keeper.__file__ in argv and daemon.log_file in argv and argv[-2] == str(daemon.pid):
                return int(entry.name)
    return None


async def _gone(pid: int) -> None:
    await seen(lambda: not Path(f"/proc/{pid}").exists())


async def test_containers_of_a_detached_daemon_outlive_a_start_that_fails(
    private_daemon: Callable[..., Daemon], tmp_path: Path, ctr: Any
) -> None:
    async with private_daemon(detach=True) as first:
        await ctr.run(first, "detached-one")
        await first.stop()
    assert Path(first.state).exists()  # its container goes on
    places = {"root": first.root, "state": first.state}
    broken = tmp_path / "containerd"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(Unavailable, match="exit code 3"):
        async with private_daemon(**places, binary=broken, detach=True):
            pass
    async with private_daemon(**places, detach=True) as second:
        assert "RUNNING" in await ctr(second, "tasks", "list")
        await ctr(second, "tasks", "kill", "--signal", "KILL", "detached-one")
        await ctr(second, "tasks", "delete", "detached-one")
        await second.stop()
    assert not Path(first.state).exists()  # nothing of it is needed any more
    assert Path(first.root).exists()
    shutil.rmtree(first.root)
    assert_nothing_left(first)


async def test_a_detached_daemon_that_never_started_leaves_nothing(
    private_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    broken = tmp_path / "containerd"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    daemon = private_daemon(binary=broken, detach=True)
    with pytest.raises(Unavailable, match="exit code 3"):
        async with daemon:
            pass
    assert_nothing_left(daemon)
