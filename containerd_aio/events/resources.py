"""Events about what the daemon stores: containers, images, namespaces, content, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from containerd_aio.events.event import Event

# --- containers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContainerRuntime:
    """The runtime of a new container.

    Attributes:
        name: Runtime, such as ``io.containerd.runc.v2``.
        options_type_url: Type of ``options``; empty when there are none.
        options: Encoded runtime options.
    """

    name: str = ""
    options_type_url: str = ""
    options: bytes = b""


@dataclass(frozen=True, slots=True)
class ContainerCreate(Event):
    """A container record was made. No process exists yet.

    Attributes:
        id: Container id.
        image: Name of its image; may be empty.
        runtime: Its runtime.
    """

    message_name: ClassVar[str] = "containerd.events.ContainerCreate"
    id: str = ""
    image: str = ""
    runtime: ContainerRuntime | None = None


@dataclass(frozen=True, slots=True)
class ContainerUpdate(Event):
    """A container record was changed.

    Attributes:
        id: Container id.
        image: Name of its image after the change.
        labels: Its labels after the change.
        snapshot_key: Its snapshot after the change.
    """

    message_name: ClassVar[str] = "containerd.events.ContainerUpdate"
    id: str = ""
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    snapshot_key: str = ""


@dataclass(frozen=True, slots=True)
class ContainerDelete(Event):
    """A container record was removed."""

    message_name: ClassVar[str] = "containerd.events.ContainerDelete"
    id: str = ""


# --- images -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageCreate(Event):
    """An image record was made.

    Attributes:
        name: Image name.
        labels: Its labels.
    """

    message_name: ClassVar[str] = "containerd.services.images.v1.ImageCreate"
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ImageUpdate(Event):
    """An image record was changed.

    Attributes:
        name: Image name.
        labels: Its labels after the change.
    """

    message_name: ClassVar[str] = "containerd.services.images.v1.ImageUpdate"
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ImageDelete(Event):
    """An image record was removed; since containerd 2.0 also when it expired."""

    message_name: ClassVar[str] = "containerd.services.images.v1.ImageDelete"
    name: str = ""


# --- namespaces ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamespaceCreate(Event):
    """A namespace was made.

    Attributes:
        name: Namespace.
        labels: Its labels.
    """

    message_name: ClassVar[str] = "containerd.events.NamespaceCreate"
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NamespaceUpdate(Event):
    """The labels of a namespace were changed.

    Attributes:
        name: Namespace.
        labels: Its labels after the change.
    """

    message_name: ClassVar[str] = "containerd.events.NamespaceUpdate"
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NamespaceDelete(Event):
    """A namespace was removed."""

    message_name: ClassVar[str] = "containerd.events.NamespaceDelete"
    name: str = ""


# --- content and snapshots ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContentCreate(Event):
    """A blob was committed to the content store; sent since containerd 2.1.

    Attributes:
        digest: Digest of the blob.
        size: Its size in bytes.
    """

    message_name: ClassVar[str] = "containerd.events.ContentCreate"
    digest: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class ContentDelete(Event):
    """A blob was deleted by a client. What the garbage collector removes is not reported.

    Attributes:
        digest: Digest of the blob.
    """

    message_name: ClassVar[str] = "containerd.events.ContentDelete"
    digest: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotPrepare(Event):
    """A writable snapshot was made. Views are not reported.

    Attributes:
        key: Key of the snapshot.
        parent: Name of its parent; empty for a first layer.
        snapshotter: Snapshotter; empty before containerd 1.7.
    """

    message_name: ClassVar[str] = "containerd.events.SnapshotPrepare"
    key: str = ""
    parent: str = ""
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotCommit(Event):
    """A writable snapshot became a committed one.

    Attributes:
        key: Key it had.
        name: Name it has now.
        snapshotter: Snapshotter; empty before containerd 1.7.
    """

    message_name: ClassVar[str] = "containerd.events.SnapshotCommit"
    key: str = ""
    name: str = ""
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotRemove(Event):
    """A snapshot was removed; by the garbage collector too since containerd 1.7.

    Attributes:
        key: Key or name of the snapshot.
        snapshotter: Snapshotter; empty before containerd 1.7.
    """

    message_name: ClassVar[str] = "containerd.events.SnapshotRemove"
    key: str = ""
    snapshotter: str = ""
