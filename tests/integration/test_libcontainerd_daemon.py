"""A `Remote` that keeps containerd itself: started, adopted, killed in each state of its containers, stopped."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio.libcontainerd import (
    Process,
    Remote,
    RestartManager,
    with_daemon_options,
    with_live_restore,
    with_oom_score,
    with_restart_manager,
    with_start_daemon,
)
from tests.integration.daemon_view import assert_nothing_left
from tests.unit.libcontainerd_support import Place, ended, make_rootfs, nothing_left, seen

if TYPE_CHECKING:
    from containerd_aio import Daemon


class Service:
    """Where remotes are opened one after the other.

    Attributes:
        place: For specs and the book.
        options: Options of each remote.
    """

    def __init__(self, place: Place, options: tuple[Any, ...]) -> None:
        self.place = place
        self.options = options

    @asynccontextmanager
    async def remote(self, *more: Any) -> AsyncIterator[Remote]:
        async with Remote(
            self.place.state_dir, *self.options, *more, namespace=self.place.namespace
        ) as remote:
            self.place.address = remote.address
            yield remote


@pytest.fixture
async def service(
    private_daemon: Callable[..., Daemon], containerd_binary: str, tmp_path: Path
) -> AsyncIterator[Service]:
    """Places of a containerd that is left running now and then, and ended when the test is over."""
    last = private_daemon(detach=False)
    place = Place(
        last.address,
        f"lib-{secrets.token_hex(3)}",
        tmp_path / "state",
        make_rootfs(tmp_path / "rootfs"),
    )
    options = (
        with_start_daemon(),
        with_live_restore(True),
        with_daemon_options(binary=containerd_binary, root=last.root, state=last.state, log_level="warn"),
    )
    yield Service(place, options)
    async with last:  # adopts what is left, and clears it away
        pass
    for folder in (last.root, last.state):  # left by one that was stopped
        shutil.rmtree(folder, ignore_errors=True)
    assert_nothing_left(last)


async def _kill(remote: Remote) -> None:
    """Kill containerd, as others would, and wait until it is there again."""
    assert remote.daemon is not None
    before, pid = remote.daemon.restarts, remote.daemon.pid
    os.kill(pid, signal.SIGKILL)
    daemon = remote.daemon
    await seen(lambda: daemon.restarts > before)


async def test_E11_E39_containerd_is_killed_in_each_state(service: Service, containerd_version: str) -> None:
    place = service.place
    manager = RestartManager("always")
    async with service.remote(with_oom_score(7)) as remote:
        assert remote.daemon is not None
        assert Path(f"/proc/{remote.daemon.pid}/oom_score_adj").read_text().strip() == "7"
        client = await remote.client(place.book)
        for name in ("runs", "paused", "exec", "dies"):
            await client.create(name, place.spec(name))
        await client.pause("paused")
        await client.add_process("exec", "e", Process(args=["sleep", "1000"]))
        [doomed] = [s.pid for s in await client.summary("dies")]
        await client.create("again", place.spec("again", "exit 4"), with_restart_manager(manager))
        await place.book.until("again", "restart")
        assert remote.daemon is not None
        before = remote.daemon.restarts
        os.kill(remote.daemon.pid, signal.SIGKILL)
        os.kill(doomed, signal.SIGKILL)
        await place.book.until("dies", "exit")
        assert remote.daemon.restarts == before + 1
        await place.book.until("again", "restart", 2)
        manager.cancel()
        await place.book.until("again", "exit")
        await _kill(remote)
        await client.resume("paused")
        for name in ("runs", "paused", "exec"):
            await client.signal(name, "KILL")
            await place.book.until(name, "exit")
    lost = "exit 137" if containerd_version == "1.6" else "exit 255 unknown"
    assert {name: place.book.of(name) for name in ("runs", "paused", "exec", "dies")} == {
        "runs": ["start-container", "exit 137"],
        "paused": ["start-container", "pause", "resume", "exit 137"],
        "exec": ["start-container", "exit-process e 137", "exit 137"],
        "dies": ["start-container", lost],
    }
    again = place.book.of("again")
    assert again[-1] == "exit 4"
    assert set(zip(again[:-1:2], again[1:-1:2], strict=False)) == {("start-container", "restart 4")}
    await nothing_left(place)


async def test_E39_containerd_outlives_a_remote_with_live_restore_and_is_adopted(service: Service) -> None:
    place = service.place
    async with service.remote() as remote:
        assert remote.daemon is not None
        pid = remote.daemon.pid
        client = await remote.client(place.book)
        await client.create("a", place.spec("a"))
        await client.create("b", place.spec("b", "sleep 0.2; exit 5"))
    assert Path(f"/proc/{pid}").exists()
    async with service.remote() as remote:
        assert remote.daemon is not None
        assert remote.daemon.pid == pid
        client = await remote.client(place.book)
        await ended(place, "b")
        await client.restore("a")
        await client.restore("b")
        assert place.book.of("b") == ["start-container", "exit 5"]
        # An adopted one is kept as well.
        await _kill(remote)
        assert remote.daemon.pid != pid
        await client.signal("a", "KILL")
        await place.book.until("a", "exit")
    assert place.book.of("a") == ["start-container", "restore", "exit 137"]


@pytest.mark.shows("seed:libcontainerd.Remote.Cleanup")
async def test_E37_E39_without_live_restore_containerd_ends_and_containers_too(service: Service) -> None:
    place = service.place
    trap = "trap 'exit 7' TERM; touch /ready; while :; do sleep 0.02; done"
    async with service.remote(with_live_restore(False)) as remote:
        assert remote.daemon is not None
        client = await remote.client(place.book)
        await client.create("a", place.spec("a", trap))
        await seen(Path(place.rootfs, "ready").exists)
        daemon = remote.daemon
    assert not daemon.running
    for path in (daemon.address, f"{daemon.state}/containerd.pid"):
        assert not Path(path).exists()
    async with service.remote(with_live_restore(False)) as remote:
        client = await remote.client(place.book)
        await client.restore("a")
        await remote.cleanup()
        assert remote.daemon is not None
        assert not remote.daemon.running
        with anyio.move_on_after(1):  # what was stopped on purpose is not started again
            await place.book.until("never", "told")
        assert not remote.daemon.running
    assert place.book.of("a") == ["start-container", "exit 7"]
