"""The client and its daemon as Go's own suite looks at them: connecting, connecting again, settings of the daemon."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from containerd_aio import Call, Client, Closed, Daemon
from containerd_aio.api.containerd.services.containers.v1 import ListContainersRequest
from containerd_aio.api.containerd.services.tasks.v1 import ListTasksRequest
from containerd_aio.api.grpc.health.v1 import HealthCheckRequest, HealthCheckResponseServingStatus
from containerd_aio.oci import RuncOptions
from containerd_aio.testing import RegistryServer

IMAGE = "docker.io/library/busybox:latest"
PrivateDaemon = Callable[..., Daemon]


def _parent(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.shows(
    "go:TestNewClient",
    "seed:containerd.New",
    "seed:containerd.Client",
    "seed:containerd.Client.Close",
    "seed:containerd.Client.Version",
    "seed:containerd.Client.IsServing",
    "seed:containerd.Version",
)
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


@pytest.mark.shows(
    "seed:containerd.ClientOpt",
    "seed:containerd.WithDefaultNamespace",
    "seed:containerd.WithDialOpts",
    "seed:containerd.NewWithConn",
    "seed:containerd.NewRemoteContainerStore",
    "seed:containerd.Client.ContainerService",
    "seed:containerd.Client.EventService",
    "seed:containerd.Client.HealthService",
    "seed:containerd.Client.TaskService",
    "seed:containerd.Client.VersionService",
)
async def test_services_of_one_client_in_two_namespaces(daemon: Daemon, namespace: str) -> None:
    async with Client(daemon.address, namespace=namespace, timeout=20, connect_timeout=5) as client:
        other = client.namespaced(f"{namespace}-other")
        async with await client.new_container("one", args=["true"]):
            listed = (await client.services.containers.list(ListContainersRequest())).containers
            assert [container.id for container in listed] == ["one"]
            assert (await other.services.containers.list(ListContainersRequest())).containers == []
            assert (await client.services.tasks.list(ListTasksRequest())).tasks == []
        assert (await client.services.version.version()).version == (await other.version()).version
        serving = await client.services.health.check(HealthCheckRequest())
        assert serving.status == HealthCheckResponseServingStatus.SERVING
        async with client.events('topic=="/of/this/test"') as events:
            await other.publish("/of/this/test")
            await client.publish("/of/this/test")
            assert (await anext(events)).namespace == namespace  # type: ignore[union-attr]


@pytest.mark.shows("go:TestImagePullWithTracing")
async def test_a_pull_can_be_traced(client: Client, daemon: Daemon) -> None:
    """What Go's client makes spans of, the hook sees: every call, its headers and how it ended."""
    seen: list[tuple[str, BaseException | None]] = []

    def hook(call: Call) -> Callable[[BaseException | None], None]:
        call.headers["traceparent"] = f"00-{'1' * 32}-{'2' * 16}-01"
        return lambda error: seen.append((call.method.rpartition("/")[2], error))

    async with RegistryServer() as registry:
        name = f"{registry.host}/traced:1"
        await client.push(name, await client.image(IMAGE))
        async with Client(daemon.address, namespace=client.namespace, hook=hook) as traced:
            await traced.pull(name, via="client")
    ended_well = {method for method, error in seen if error is None}
    assert {"Info", "Create", "Delete"} <= ended_well, ended_well  # content, the image's record, the lease
