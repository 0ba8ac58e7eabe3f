"""Requests that crash a daemon never leave (the table is measured: docs/compatibility.md)."""

from __future__ import annotations

from typing import Any

import pytest

from containerd_aio._transport.guard import _REQUIRED, check_request
from containerd_aio.api.containerd.services.containers.v1 import (
    Container,
    CreateContainerRequest,
    UpdateContainerRequest,
)
from containerd_aio.api.containerd.services.content.v1 import Info as ContentInfo
from containerd_aio.api.containerd.services.content.v1 import UpdateRequest
from containerd_aio.api.containerd.services.diff.v1 import ApplyRequest
from containerd_aio.api.containerd.services.events.v1 import ForwardRequest, PublishRequest
from containerd_aio.api.containerd.services.images.v1 import CreateImageRequest, Image, UpdateImageRequest
from containerd_aio.api.containerd.services.leases.v1 import (
    AddResourceRequest,
    DeleteResourceRequest,
    Resource,
)
from containerd_aio.api.containerd.services.namespaces.v1 import (
    CreateNamespaceRequest,
    Namespace,
    UpdateNamespaceRequest,
)
from containerd_aio.api.containerd.services.sandbox.v1 import (
    ControllerCreateRequest,
    StoreCreateRequest,
    StoreUpdateRequest,
)
from containerd_aio.api.containerd.services.snapshots.v1 import Info as SnapshotInfo
from containerd_aio.api.containerd.services.snapshots.v1 import UpdateSnapshotRequest
from containerd_aio.api.containerd.services.tasks.v1 import ExecProcessRequest, UpdateTaskRequest
from containerd_aio.api.containerd.types import Descriptor, Envelope, Sandbox, SandboxRuntime
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.errors import InvalidArgument

TARGET = Image(name="i", target=Descriptor())
CASES: list[tuple[str, Any, Any]] = [
    (
        "containers.v1.Containers/Create",
        CreateContainerRequest(),
        CreateContainerRequest(container=Container()),
    ),
    (
        "containers.v1.Containers/Update",
        UpdateContainerRequest(),
        UpdateContainerRequest(container=Container()),
    ),
    ("content.v1.Content/Update", UpdateRequest(), UpdateRequest(info=ContentInfo())),
    ("diff.v1.Diff/Apply", ApplyRequest(), ApplyRequest(diff=Descriptor())),
    ("events.v1.Events/Publish", PublishRequest(topic="/t"), PublishRequest(topic="/t", event=AnyMessage())),
    ("events.v1.Events/Forward", ForwardRequest(), ForwardRequest(envelope=Envelope(event=AnyMessage()))),
    (
        "events.v1.Events/Forward",
        ForwardRequest(envelope=Envelope()),
        ForwardRequest(envelope=Envelope(event=AnyMessage())),
    ),
    ("images.v1.Images/Create", CreateImageRequest(), CreateImageRequest(image=TARGET)),
    ("images.v1.Images/Create", CreateImageRequest(image=Image(name="i")), CreateImageRequest(image=TARGET)),
    ("images.v1.Images/Update", UpdateImageRequest(), UpdateImageRequest(image=TARGET)),
    ("images.v1.Images/Update", UpdateImageRequest(image=Image(name="i")), UpdateImageRequest(image=TARGET)),
    ("leases.v1.Leases/AddResource", AddResourceRequest(), AddResourceRequest(resource=Resource())),
    ("leases.v1.Leases/DeleteResource", DeleteResourceRequest(), DeleteResourceRequest(resource=Resource())),
    (
        "namespaces.v1.Namespaces/Create",
        CreateNamespaceRequest(),
        CreateNamespaceRequest(namespace=Namespace()),
    ),
    (
        "namespaces.v1.Namespaces/Update",
        UpdateNamespaceRequest(),
        UpdateNamespaceRequest(namespace=Namespace()),
    ),
    (
        "sandbox.v1.Store/Create",
        StoreCreateRequest(sandbox=Sandbox()),
        StoreCreateRequest(sandbox=Sandbox(runtime=SandboxRuntime())),
    ),
    (
        "sandbox.v1.Store/Update",
        StoreUpdateRequest(),
        StoreUpdateRequest(sandbox=Sandbox(runtime=SandboxRuntime())),
    ),
    (
        "sandbox.v1.Controller/Create",
        ControllerCreateRequest(sandbox=Sandbox()),
        ControllerCreateRequest(sandbox=Sandbox(spec=AnyMessage())),
    ),
    ("snapshots.v1.Snapshots/Update", UpdateSnapshotRequest(), UpdateSnapshotRequest(info=SnapshotInfo())),
    ("tasks.v1.Tasks/Exec", ExecProcessRequest(), ExecProcessRequest(spec=AnyMessage())),
    ("tasks.v1.Tasks/Update", UpdateTaskRequest(), UpdateTaskRequest(resources=AnyMessage())),
]


@pytest.mark.parametrize(("method", "deadly", "harmless"), CASES)
def test_a_missing_message_is_refused_by_name(method: str, deadly: Any, harmless: Any) -> None:
    full = f"/containerd.services.{method}"
    with pytest.raises(InvalidArgument, match=r"crashes.*not sent"):
        check_request(full, deadly)
    check_request(full, harmless)


def test_every_row_of_the_table_is_tried() -> None:
    assert {f"/containerd.services.{method}" for method, _, _ in CASES} == set(_REQUIRED)
