"""The client and its daemon as Go's own suite looks at them: connecting, connecting again, settings of the daemon."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from containerd_aio import Client, Closed, Daemon
from containerd_aio.oci import RuncOptions

IMAGE = "docker.io/library/busybox:latest"
PrivateDaemon = Callable[..., Daemon]


def _parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.shows("go:TestNewClient")
async def test_a_client_connects_and_closes(daemon: Daemon, containerd_version: str) -> None:
    async with Client(daemon.address) as client:
        assert (await client.version()).version.startswith(containerd_version)
    with pytest.raises(Closed):
        await client.version()
    async with client:  # it may be opened again
        assert await client.is_serving()


@pytest.mark.shows("go:TestClientReconnect")
async def test_calls_work_after_the_daemon_was_started_anew(private_daemon: PrivateDaemon) -> None:
    async with private_daemon() as daemon, Client(daemon.address) as client:
        assert await client.is_serving()
        before = daemon.pid
        await daemon.restart()
        assert await client.is_serving()
        assert await client.containers() == []
        assert daemon.pid != before
        async with await client.new_container("none", args=["true"]) as container:
            assert [c.id for c in await client.containers()] == [container.id]


@pytest.mark.shows("go:TestDaemonRestartWithRunningShim")
async def test_a_shim_killed_behind_a_restart_is_an_exit(
    private_daemon: PrivateDaemon, busybox_archive: Path
) -> None:
    async with (
        private_daemon() as daemon,
        Client(daemon.address, namespace=Path(daemon.root).name) as client,
    ):
        await client.import_archive(busybox_archive, unpack=True)
        async with await client.new_container("shim", image=IMAGE, args=["sleep", "1000"]) as container:
            async with await container.new_task() as task:
                await task.start()
                await daemon.restart()
                await client.barrier()
                os.kill(_parent(task.pid), signal.SIGKILL)
                status = await task.wait(timeout=30)
                assert (status.code, status.unknown) == (137, False)


@pytest.mark.shows("go:TestDaemonRuntimeRoot")
async def test_the_root_of_runc_is_an_option(client: Client, tmp_path: Path) -> None:
    root = tmp_path / "runc"
    container = await client.new_container(
        "rooted", image=IMAGE, args=["sleep", "1000"], runtime_options=RuncOptions(root=str(root))
    )
    async with container, await container.new_task() as task:
        await task.start()
        assert (root / client.namespace / "rooted" / "state.json").exists()
        assert not Path("/run/containerd/runc", client.namespace, "rooted").exists()


@pytest.mark.shows("go:TestDaemonCustomCgroup")
async def test_a_cgroup_for_the_daemon(private_daemon: PrivateDaemon) -> None:
    path = f"/caio-{secrets.token_hex(4)}"
    try:
        async with private_daemon(config={"cgroup": {"path": path}}) as daemon:
            cgroups = Path(f"/proc/{daemon.pid}/cgroup").read_text().splitlines()
            assert any(line.endswith(f":{path}") for line in cgroups), cgroups
    finally:
        for folder in (*Path("/sys/fs/cgroup").glob(f"*{path}"), Path(f"/sys/fs/cgroup{path}")):
            with suppress(OSError):
                folder.rmdir()
    assert list(Path("/sys/fs/cgroup").glob(f"*{path}")) == []
