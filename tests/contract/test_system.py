"""Version, health, introspection, and what every service says without a namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd.services.containers.v1 import ContainersStub, ListContainersRequest
from containerd_aio.api.containerd.services.content.v1 import ContentStub, InfoRequest
from containerd_aio.api.containerd.services.images.v1 import GetImageRequest, ImagesStub
from containerd_aio.api.containerd.services.introspection.v1 import PluginInfoRequest, PluginsRequest
from containerd_aio.api.containerd.services.leases.v1 import LeasesStub, ListRequest
from containerd_aio.api.containerd.services.namespaces.v1 import ListNamespacesRequest, NamespacesStub
from containerd_aio.api.containerd.services.snapshots.v1 import SnapshotsStub, StatSnapshotRequest
from containerd_aio.api.containerd.services.tasks.v1 import ListTasksRequest, MetricsRequest, TasksStub
from containerd_aio.api.grpc.health.v1 import HealthCheckRequest
from tests.contract.backend import Backend, refused

Z = "sha256:" + "0" * 64
IDENTIFIER = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"


@pytest.fixture
async def channel(backend: Backend) -> AsyncIterator[Channel]:
    """A channel that adds no namespace."""
    channel = Channel(Address.parse(backend.client.address), timeout=10, connect_timeout=5)
    yield channel
    channel.close()


async def test_version_and_health(backend: Backend) -> None:
    assert (await backend.client.version()).version.startswith(f"{backend.release}.")
    assert await backend.client.is_serving()
    health = backend.client.services.health
    assert await refused(health.check(HealthCheckRequest(service="x"))) == ("NotFound", "unknown service")


async def test_introspection(backend: Backend) -> None:
    introspection = backend.client.services.introspection
    info = await backend.client.server_info()
    assert len(info.uuid) == 36
    assert info == await backend.client.server_info()
    assert (info.pid is None) == (backend.release == "1.6")
    request = PluginsRequest(filters=["type==io.containerd.snapshotter.v1,id==overlayfs"])
    (plugin,) = (await introspection.plugins(request)).plugins
    assert [platform.os for platform in plugin.platforms] == ["linux"]
    assert plugin.init_err is None
    class_name, text = await refused(introspection.plugins(PluginsRequest(filters=["type=x"])))
    assert class_name == "InvalidArgument"
    assert text.startswith(
        "invalid argument: filters: " if backend.release == "2.1" else "filters: parse error: ["
    )
    wanted = PluginInfoRequest(type="io.containerd.runtime.v2", id="task")
    if backend.release == "2.1":
        found = (await introspection.plugin_info(wanted)).plugin
        assert found is not None
        assert (found.type, found.id) == ("io.containerd.runtime.v2", "task")
    else:
        service = "containerd.services.introspection.v1.Introspection"
        class_name, text = await refused(introspection.plugin_info(wanted))
        assert class_name == "Unimplemented"
        assert f"has no method PluginInfo in its service {service}: it came with containerd 2.0" in text


async def test_services_need_a_namespace(channel: Channel) -> None:
    refusal = ("FailedPrecondition", "namespace is required: failed precondition")
    for call in [
        ContainersStub(channel).list(ListContainersRequest()),
        ContentStub(channel).info(InfoRequest(digest=Z)),
        ImagesStub(channel).get(GetImageRequest(name="x")),
        LeasesStub(channel).list(ListRequest()),
        SnapshotsStub(channel).stat(StatSnapshotRequest(snapshotter="overlayfs", key="x")),
        TasksStub(channel).list(ListTasksRequest()),
    ]:
        assert await refused(call) == refusal
    assert await refused(TasksStub(channel).metrics(MetricsRequest())) == ("Unknown", refusal[1])
    await NamespacesStub(channel).list(ListNamespacesRequest())


async def test_a_namespace_must_be_an_identifier(channel: Channel) -> None:
    call = ContainersStub(channel).list(
        ListContainersRequest(), metadata={"containerd-namespace": "bad name!"}
    )
    text = f'namespace validation: identifier "bad name!" must match {IDENTIFIER}: invalid argument'
    assert await refused(call) == ("InvalidArgument", text)
