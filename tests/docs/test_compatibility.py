"""What docs/compatibility.md says about the releases of containerd, measured on each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from grpclib.const import Cardinality

from containerd_aio import (
    Client,
    ContainerdError,
    ContentCreate,
    Daemon,
    NotFound,
    SnapshotPrepare,
    Unimplemented,
    Unknown,
)
from containerd_aio._transport import stream
from containerd_aio._transport.guard import _REQUIRED
from containerd_aio.api.containerd.services.containers.v1 import (
    CreateContainerRequest,
    UpdateContainerRequest,
)
from containerd_aio.api.containerd.services.content.v1 import UpdateRequest
from containerd_aio.api.containerd.services.diff.v1 import ApplyRequest
from containerd_aio.api.containerd.services.events.v1 import ForwardRequest, PublishRequest
from containerd_aio.api.containerd.services.images.v1 import (
    CreateImageRequest,
    DeleteImageRequest,
    Image,
    UpdateImageRequest,
)
from containerd_aio.api.containerd.services.introspection.v1 import PluginInfoRequest
from containerd_aio.api.containerd.services.leases.v1 import AddResourceRequest, DeleteResourceRequest
from containerd_aio.api.containerd.services.namespaces.v1 import (
    CreateNamespaceRequest,
    UpdateNamespaceRequest,
)
from containerd_aio.api.containerd.services.sandbox.v1 import (
    ControllerCreateRequest,
    StoreCreateRequest,
    StoreListRequest,
    StoreUpdateRequest,
)
from containerd_aio.api.containerd.services.snapshots.v1 import UpdateSnapshotRequest
from containerd_aio.api.containerd.services.tasks.v1 import ExecProcessRequest, UpdateTaskRequest
from containerd_aio.api.containerd.services.transfer.v1 import TransferRequest
from containerd_aio.api.containerd.types import Envelope, Sandbox
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.images import ImageStore
from containerd_aio.services.leases import Leases, Resource
from tests.docs.conftest import BUSYBOX
from tests.docs.markdown import REPOSITORY

PAGE = REPOSITORY / "docs" / "compatibility.md"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _tables() -> list[list[list[str]]]:
    """The tables of the page: rows of cells, heads included."""
    tables: list[list[list[str]]] = [[]]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            tables.append([])
        elif not line.startswith("|---"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [table for table in tables if table]


def _claims(table: int, line: str) -> dict[str, str]:
    """First cell of each row -> what the column of a release line says."""
    head, *rows = _tables()[table]
    return {row[0]: row[head.index(line)] for row in rows}


# -- features -------------------------------------------------------------------------------------------------


async def _answers(call: Any) -> bool:
    try:
        await call
    except Unimplemented:
        return False
    except ContainerdError:
        pass  # it is there, and did not like an empty request
    return True


async def _has_sandboxes_and_transfer(client: Client) -> str:
    store = await _answers(client.services.sandbox_store.list(StoreListRequest()))
    transfer = await _answers(client.services.transfer.transfer(TransferRequest()))
    assert store == transfer
    return "present" if store else "absent"


async def _has_plugin_info(client: Client) -> str:
    request = PluginInfoRequest(type="io.containerd.snapshotter.v1", id="overlayfs")
    return "present" if await _answers(client.services.introspection.plugin_info(request)) else "absent"


async def _tells_its_pid(client: Client) -> str:
    return "yes" if (await client.server_info()).pid else "no"


async def _leases_images(client: Client) -> str:
    async with client.lease() as lease:
        call = Leases(client.services).add_resource(lease, Resource("images", BUSYBOX))
        return "yes" if await _answers(call) else "no"


async def _deletes_by_target(client: Client) -> str:
    target, other = (Descriptor(MANIFEST, f"sha256:{digit * 64}", 7) for digit in "ab")
    await ImageStore(client.services).create("target", target)
    try:
        await client.services.images.delete(DeleteImageRequest(name="target", target=other.to_raw()))
    except NotFound:
        await client.image("target")
        return "yes"
    with pytest.raises(NotFound):
        await client.image("target")
    return "no, deletes it"


async def _tells_of_content(client: Client) -> str:
    async with client.events('topic=="/content/create"') as events, client.lease():
        await ContentStore(client.services).write("ref", b"something")
        await client.barrier()
        if not events.pending:
            return "no"
        assert isinstance(await anext(events), ContentCreate)
        return "yes"


async def _names_snapshotters(client: Client) -> str:
    async with client.events('topic=="/snapshot/prepare"') as events:
        async with await client.new_container("snap", image=BUSYBOX):
            event = await anext(events)
    assert isinstance(event, SnapshotPrepare)
    return "yes" if event.snapshotter == "overlayfs" else "no"


async def _marks_runtime_errors(client: Client) -> str:
    async with await client.new_container("none", image=BUSYBOX, args=["/no/such/binary"]) as container:
        with pytest.raises(Unknown) as caught:
            await container.new_task()
    return "yes" if caught.value.message.endswith(": unknown") else "no"


FEATURES: tuple[Callable[[Client], Any], ...] = (
    _has_sandboxes_and_transfer,
    _has_plugin_info,
    _tells_its_pid,
    _leases_images,
    _deletes_by_target,
    _tells_of_content,
    _names_snapshotters,
    _marks_runtime_errors,
)


async def test_what_differs(client: Client, containerd_version: str) -> None:
    claims = _claims(0, containerd_version)
    with anyio.fail_after(60):
        found = [await feature(client) for feature in FEATURES]
    assert dict(zip(claims, found, strict=True)) == claims


# -- crashes --------------------------------------------------------------------------------------------------

REQUESTS: dict[tuple[str, str], Any] = {
    ("containers.v1.Containers/Create", "container"): CreateContainerRequest(),
    ("containers.v1.Containers/Update", "container"): UpdateContainerRequest(),
    ("content.v1.Content/Update", "info"): UpdateRequest(),
    ("diff.v1.Diff/Apply", "diff"): ApplyRequest(),
    ("events.v1.Events/Publish", "event"): PublishRequest(topic="/a/b"),
    ("events.v1.Events/Forward", "envelope"): ForwardRequest(),
    ("events.v1.Events/Forward", "envelope.event"): ForwardRequest(
        envelope=Envelope(topic="/a/b", namespace="default", timestamp=Timestamp(seconds=1))
    ),
    ("images.v1.Images/Create", "image"): CreateImageRequest(),
    ("images.v1.Images/Create", "image.target"): CreateImageRequest(image=Image(name="i")),
    ("images.v1.Images/Update", "image"): UpdateImageRequest(),
    ("images.v1.Images/Update", "image.target"): UpdateImageRequest(image=Image(name="i")),
    ("leases.v1.Leases/AddResource", "resource"): AddResourceRequest(),
    ("leases.v1.Leases/DeleteResource", "resource"): DeleteResourceRequest(),
    ("namespaces.v1.Namespaces/Create", "namespace"): CreateNamespaceRequest(),
    ("namespaces.v1.Namespaces/Update", "namespace"): UpdateNamespaceRequest(),
    ("sandbox.v1.Store/Create", "sandbox"): StoreCreateRequest(),
    ("sandbox.v1.Store/Create", "sandbox.runtime"): StoreCreateRequest(sandbox=Sandbox()),
    ("sandbox.v1.Store/Update", "sandbox"): StoreUpdateRequest(),
    ("sandbox.v1.Store/Update", "sandbox.runtime"): StoreUpdateRequest(sandbox=Sandbox()),
    ("sandbox.v1.Controller/Create", "sandbox"): ControllerCreateRequest(sandbox_id="x", sandboxer="shim"),
    ("sandbox.v1.Controller/Create", "sandbox.spec"): ControllerCreateRequest(
        sandbox_id="x", sandboxer="shim", sandbox=Sandbox()
    ),
    ("snapshots.v1.Snapshots/Update", "info"): UpdateSnapshotRequest(),
    ("tasks.v1.Tasks/Exec", "spec"): ExecProcessRequest(container_id="victim", exec_id="e"),
    ("tasks.v1.Tasks/Update", "resources"): UpdateTaskRequest(container_id="victim"),
}


def test_the_table_of_crashes_is_what_is_guarded() -> None:
    guarded = [
        (method.removeprefix("/containerd.services."), path)
        for method, paths in _REQUIRED.items()
        for path in paths
    ]
    _, *rows = _tables()[2]
    assert [(row[0], row[1]) for row in rows] == guarded == list(REQUESTS)


async def test_what_crashes(
    private_daemon: Callable[..., Daemon],
    containerd_version: str,
    busybox_archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "check_request", lambda *_: None)
    head, *rows = _tables()[2]
    column = head.index(containerd_version)
    wrong = []
    async with private_daemon(cri=True, log_level="fatal") as daemon:
        for row in rows:
            if not daemon.running:
                await daemon.start()
            request = REQUESTS[row[0], row[1]]
            if row[0].startswith("tasks.v1."):
                outcome = await _outcome_for_a_task(daemon, busybox_archive, row[0], request)
            else:
                outcome = await _outcome(daemon, row[0], request)
            if outcome != row[column]:
                wrong.append((row[0], row[1], outcome))
    assert wrong == []


async def _outcome_for_a_task(daemon: Daemon, archive: Path, method: str, request: Any) -> str:
    # runc keeps its state by namespace and id, whatever the daemon
    async with Client(daemon.address, namespace=Path(daemon.root).name) as client:
        await client.import_archive(archive, unpack=True)
        async with await client.new_container("victim", image=BUSYBOX, args=["sleep", "1000"]) as container:
            async with await container.new_task() as task:
                await task.start()
                with pytest.raises(Unknown, match="ttrpc: closed"):
                    await _send(client, method, request)
                status = await task.wait(timeout=10)
    return "kills the container" if status.code == 137 and daemon.running else str(status)


async def _send(client: Client, method: str, request: Any) -> None:
    call = client._scope.core.connections.rpc.request(
        f"/containerd.services.{method}",
        Cardinality.UNARY_UNARY,
        type(request),
        bytes,
        timeout=20,
        metadata={"containerd-namespace": client._namespace},
    )
    async with call as stream:
        await stream.send_message(request, end=True)
        await stream.recv_message()


async def _outcome(daemon: Daemon, method: str, request: Any) -> str:
    async with Client(daemon.address) as client:
        try:
            await _send(client, method, request)
        except Unimplemented:
            return "absent"
        except ContainerdError:
            pass
        else:
            return "accepted"
        try:
            await client.version()
        except ContainerdError:
            with anyio.fail_after(10):
                await daemon.wait()
            return "crash"
        return "error"
