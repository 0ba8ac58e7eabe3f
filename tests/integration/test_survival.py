"""What waits and subscriptions do when the daemon, its shims or the way to it die, freeze or lie."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from containerd_aio import (
    Client,
    ConnectError,
    Container,
    Daemon,
    DeadlineExceeded,
    Event,
    Gap,
    Lagged,
    Subscription,
    Task,
    TaskExit,
    stdio,
)

IMAGE = "docker.io/library/busybox:latest"
PrivateDaemon = Callable[..., Daemon]


@asynccontextmanager
async def _client(daemon: Daemon, archive: Path, **options: Any) -> AsyncIterator[Client]:
    # runc keeps its state by namespace and id, whatever the daemon: a name of our own keeps others' runs apart.
    async with Client(daemon.address, namespace=Path(daemon.root).name, **options) as client:
        await client.import_archive(archive, unpack=True)
        yield client


@asynccontextmanager
async def _running(client: Client, name: str, *args: str) -> AsyncIterator[tuple[Container, Task]]:
    async with await client.new_container(name, image=IMAGE, args=args or ["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            yield container, task


async def _until(events: Subscription, wanted: type[Event | Gap | Lagged]) -> Event | Gap | Lagged:
    with anyio.fail_after(30):
        async for item in events:
            if isinstance(item, wanted):
                return item
    raise AssertionError("the subscription ended")


@pytest.mark.shows("go:TestDaemonRestart")
async def test_S16_a_restart_is_not_an_exit_and_the_exit_after_it_is_seen(
    private_daemon: PrivateDaemon, busybox_archive: Path
) -> None:
    async with private_daemon() as daemon, _client(daemon, busybox_archive) as client:
        async with _running(client, "runs-on") as (_, task), client.events() as events:
            async with anyio.create_task_group() as group:
                group.start_soon(task.wait)
                await daemon.kill(signal.SIGKILL)
                await daemon.restart()
                gap = await _until(events, Gap)
                assert isinstance(gap, Gap)
                assert gap.since < gap.until
                assert gap.reason
                assert task.exit_status is None
                assert await task.status() == "running"
                await task.kill(signal.SIGKILL)
            status = task.exit_status
            assert status is not None
            assert (status.code, status.unknown, status.source) == (137, False, "event")
        assert client.statistics().sessions == 2


async def test_S10_S11_an_exit_while_the_daemon_is_down(
    private_daemon: PrivateDaemon, busybox_archive: Path, containerd_version: str
) -> None:
    async with private_daemon() as daemon, _client(daemon, busybox_archive) as client:
        async with _running(client, "dies") as (_, task), client.events() as events:
            assert task.pid is not None
            await daemon.kill(signal.SIGKILL)
            os.kill(task.pid, signal.SIGKILL)
            await daemon.restart()
            status = await task.wait(timeout=20)
            exit_event = await _until(events, TaskExit)
        if containerd_version == "1.6":
            assert (status.code, status.unknown) == (137, False)
        else:  # the daemon reaps the shim and forgets the task: nobody knows the code any more
            assert (status.code, status.unknown, status.source) == (255, True, "missing")
        assert isinstance(exit_event, TaskExit)
        assert exit_event.exit_status == status.code


async def test_S13_a_killed_shim_is_an_exit_and_no_wait_fails(
    private_daemon: PrivateDaemon, busybox_archive: Path
) -> None:
    async with private_daemon() as daemon, _client(daemon, busybox_archive) as client:
        for n in range(3):
            async with _running(client, f"shim-{n}") as (_, task):
                async with anyio.create_task_group() as group:
                    group.start_soon(task.wait)
                    shim = int(Path(f"/proc/{task.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
                    os.kill(shim, signal.SIGKILL)
                assert task.exit_status is not None
                assert (task.exit_status.code, task.exit_status.unknown) == (137, False)


async def test_S40_a_frozen_daemon_is_noticed_and_nothing_is_lost(
    private_daemon: PrivateDaemon, busybox_archive: Path
) -> None:
    async with private_daemon() as daemon:
        async with _client(
            daemon, busybox_archive, heartbeat=0.2, heartbeat_timeout=0.5, timeout=1
        ) as client:
            async with _running(client, "thaws") as (_, task):
                states: list[str] = []

                async def watch() -> None:
                    async for status in client.status():
                        states.append(status.state)
                        if status.state == "degraded":
                            break

                async with anyio.create_task_group() as group:
                    group.start_soon(watch)
                    await daemon.kill(signal.SIGSTOP)
                with pytest.raises(DeadlineExceeded):
                    await client.version()
                assert task.exit_status is None
                assert task.pid is not None
                os.kill(task.pid, signal.SIGKILL)
                await daemon.kill(signal.SIGCONT)
                assert (await task.wait(timeout=20)).code == 137
            assert "degraded" in states


async def test_waits_begun_while_the_daemon_is_down_resolve(
    private_daemon: PrivateDaemon, busybox_archive: Path
) -> None:
    async with private_daemon() as daemon, _client(daemon, busybox_archive) as client:
        async with _running(client, "later", "sh", "-c", "sleep 2; exit 5") as (_, task):
            await daemon.kill(signal.SIGKILL)
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(task.wait)
                await daemon.restart()
            assert task.exit_status is not None
            assert (task.exit_status.code, task.exit_status.unknown) == (5, False)


@pytest.mark.shows("go:TestDaemonReconnectsToShimIOPipesOnRestart")
async def test_output_goes_on_across_a_restart(private_daemon: PrivateDaemon, busybox_archive: Path) -> None:
    script = "echo one; sleep 1.5; echo two"
    async with private_daemon() as daemon, _client(daemon, busybox_archive) as client:
        async with await client.new_container("talks", image=IMAGE, args=["sh", "-c", script]) as container:
            async with await container.new_task(io=stdio.capture()) as task:
                await task.start()
                await daemon.kill(signal.SIGKILL)
                await daemon.restart()
                assert (await task.wait(timeout=20)).code == 0
                await task.delete()
                assert task.captured is not None
                assert task.captured.stdout == b"one\ntwo\n"


def _is_stopped(pid: int | None) -> bool:
    """Tell whether every thread of a process has stopped."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


async def test_the_four_wrong_addresses_each_say_what_is_wrong(
    private_daemon: PrivateDaemon, tmp_path: Path
) -> None:
    async with private_daemon() as daemon:
        with pytest.raises(ConnectError, match="no such socket") as missing:
            async with Client(str(tmp_path / "none.sock")):
                pass
        assert missing.value.reason == "missing"

        other = str(tmp_path / "other.sock")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(other)
            sock.listen()
            with pytest.raises(ConnectError) as silent:
                async with Client(other, connect_timeout=0.3):
                    pass
        assert silent.value.reason == "not-serving"
        with pytest.raises(ConnectError, match=r"no such socket|gRPC") as ttrpc:
            async with Client(daemon.address + ".ttrpc", connect_timeout=2):
                pass
        assert ttrpc.value.reason in {"not-containerd", "not-serving"}

        await daemon.kill(signal.SIGSTOP)
        while not _is_stopped(daemon.pid):  # a thread may answer until it is interrupted
            await anyio.lowlevel.checkpoint()
        try:
            with anyio.fail_after(5), pytest.raises(ConnectError, match="frozen") as frozen:
                async with Client(daemon.address, connect_timeout=0.5):
                    pass
        finally:
            await daemon.kill(signal.SIGCONT)
        assert frozen.value.reason == "not-serving"

        # As a user without rights, in a process of its own.
        code = (
            "import os, sys, anyio; os.setgid(65534); os.setuid(65534)\n"
            "from containerd_aio import Client, ConnectError\n"
            "async def main():\n"
            "    try:\n"
            "        async with Client(sys.argv[1]): pass\n"
            "    except ConnectError as exc: print(exc.reason, exc)\n"
            "anyio.run(main)\n"
        )
        # What must be readable is imported before the rights are dropped.
        code = (
            "import containerd_aio.client, anyio._backends._asyncio, containerd_aio.api.containerd.services.version.v1\n"
            + code
        )
        result = await anyio.run_process(
            [sys.executable, "-c", code, daemon.address], stderr=subprocess.STDOUT
        )
        assert result.stdout.decode().startswith("permission "), result.stdout.decode()
        assert b"root" in result.stdout
