"""Checkpoints: what CRIU dumps of running processes, and images of whole containers.

A checkpoint is an index in the content store. Its entries are the archive of CRIU, the container's spec, the image, the
layer with what was changed in the root filesystem, and the options of the runtime; which of them depends on how it was
made (Go: ``Task.Checkpoint``, ``Container.Checkpoint``). Media types and annotations are those of the Go client, so that
``ctr`` and its like can use the result.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through
from containerd_aio._log import get_logger
from containerd_aio._transport.codec import encode
from containerd_aio.api.containerd.services.tasks.v1 import (
    CheckpointTaskRequest,
    GetRequest,
    PauseTaskRequest,
    ResumeTaskRequest,
)
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.distribution.manifests import OCI_INDEX, is_layer, read_document
from containerd_aio.distribution.platforms import default_platform
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from containerd_aio.image import Image
from containerd_aio.services._alone import alone
from containerd_aio.services._convert import unique_name
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.diff import Diff
from containerd_aio.services.images import ImageStore
from containerd_aio.services.leases import lease
from containerd_aio.services.snapshots import Kind, Snapshotter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from containerd_aio._scope import Scope
    from containerd_aio.api.containerd.runc.v1 import CheckpointOptions as RawOptions
    from containerd_aio.container import ContainerInfo
    from containerd_aio.services.stubs import Services

CRIU_ARCHIVE = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
"""Media type of what CRIU has dumped, as a tar."""

CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
"""Media type of the container's spec, in a ``google.protobuf.Any``."""

OPTIONS = "application/vnd.containerd.container.checkpoint.options.v1+proto"
"""Media type of the options of the checkpoint, in a ``google.protobuf.Any``."""

RUNTIME_OPTIONS = "application/vnd.containerd.container.checkpoint.runtime.options+proto"
"""Media type of the options of the runtime, in a ``google.protobuf.Any``."""

TASK_IMAGE_ANNOTATION = "image.name"
"""Annotation of the index of a task: the image of the container."""

IMAGE_ANNOTATION = "org.opencontainers.image.ref.name"
"""Annotation of the index of a container: its image."""

RUNTIME_ANNOTATION = "io.containerd.checkpoint.runtime"
"""Annotation of the index of a container: the name of its runtime."""

SNAPSHOTTER_ANNOTATION = "io.containerd.checkpoint.snapshotter"
"""Annotation of the index of a container: its snapshotter."""

CHECKPOINT_LABEL = "containerd.io/checkpoint"
"""Label of an image that is the checkpoint of a task: ``true``."""

_UNDO_TIMEOUT = 10.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """How CRIU dumps the processes of a task (``containerd.runc.v1.CheckpointOptions``).

    Attributes:
        exit: The processes end by the dump; else they go on.
        open_tcp: Allow open TCP connections.
        external_unix_sockets: Allow Unix sockets that lead out of the container.
        terminal: Allow a terminal; needed for a container that has one (runc: ``--shell-job``).
        file_locks: Allow file locks that are held.
        empty_namespaces: Namespaces to make anew and empty on restore, such as ``network``.
        cgroups_mode: What CRIU does with cgroups: ``soft`` (the default), ``full``, ``strict`` or ``ignore``.
        image_path: Directory on the daemon's machine where the dump stays; nothing is put into the content store then.
        work_path: Directory on the daemon's machine for CRIU's log and working files.

    Raises:
        InvalidArgument: A path is not absolute, or there is no such mode.
    """

    exit: bool = False
    open_tcp: bool = False
    external_unix_sockets: bool = False
    terminal: bool = False
    file_locks: bool = False
    empty_namespaces: Sequence[str] = ()
    cgroups_mode: str = ""
    image_path: str = ""
    work_path: str = ""

    def __post_init__(self) -> None:
        for name in ("image_path", "work_path"):
            path = getattr(self, name)
            if path and not path.startswith("/"):
                raise InvalidArgument(
                    f"{name} is {path!r}; it must be an absolute path on the daemon's machine"
                )
        if self.cgroups_mode not in {"", "soft", "full", "strict", "ignore"}:
            raise InvalidArgument(
                f"cgroups_mode is {self.cgroups_mode!r}; CRIU knows soft, full, strict and ignore"
            )

    @property
    def raw(self) -> RawOptions:
        """The message sent to containerd."""
        from containerd_aio.api.containerd.runc.v1 import CheckpointOptions as RawOptions

        return RawOptions(
            exit=self.exit,
            open_tcp=self.open_tcp,
            external_unix_sockets=self.external_unix_sockets,
            terminal=self.terminal,
            file_locks=self.file_locks,
            empty_namespaces=list(self.empty_namespaces),
            cgroups_mode=self.cgroups_mode,
            image_path=self.image_path,
            work_path=self.work_path,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What goes into the checkpoint of a container; see `Container.checkpoint`."""

    image: bool = True
    task: bool = True
    runtime: bool = True
    rw: bool = True


@dataclass(slots=True)
class Index:
    """The index of a checkpoint.

    Attributes:
        entries: What it refers to.
        annotations: Its annotations.
    """

    entries: list[Descriptor] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Descriptor) -> None:
        """Add something that is of use on machines like this one only."""
        self.entries.append(replace(entry, platform=default_platform()))


# --- reading ----------------------------------------------------------------------------------------------------------


async def read_index(services: Services, target: Descriptor) -> Index:
    """Return the index of a checkpoint.

    Raises:
        NotFound: Its content is not in the content store.
        InvalidArgument: It is no index.
    """
    if target.media_type != OCI_INDEX:
        raise InvalidArgument(f"{target.digest} is no checkpoint: it is a {target.media_type!r}")
    document = await read_document(ContentStore(services), target)
    return Index(
        [Descriptor.from_json(entry) for entry in document.get("manifests") or []],
        dict(document.get("annotations") or {}),
    )


def find_entry(index: Index, media_type: str) -> Descriptor | None:
    """Return the first entry of a media type (Go: ``GetIndexByMediaType``)."""
    return next((entry for entry in index.entries if entry.media_type == media_type), None)


def find_layer(index: Index) -> Descriptor | None:
    """Return the layer with what was changed in the root filesystem."""
    return next((entry for entry in index.entries if is_layer(entry.media_type)), None)


# --- writing ----------------------------------------------------------------------------------------------------------


async def checkpoint_task(
    scope: Scope, info: ContainerInfo, name: str | None, options: CheckpointOptions | None
) -> Image | None:
    """Write the checkpoint of a task; see `Task.checkpoint`."""
    name = name or f"containerd.io/checkpoint/{info.id}:{datetime.now().astimezone():%m-%d-%Y-%H:%M:%S}"
    ends = bool(options and options.exit)
    async with _checkpointing(scope, info.id), lease(scope.services), paused(scope, info.id, ends=ends):
        index = Index()
        await _add_task(scope, info, index, options)
        if options is not None and options.image_path:
            return None
        if info.image:
            index.entries.append((await ImageStore(scope.services).get(info.image)).target)
            index.annotations[TASK_IMAGE_ANNOTATION] = info.image
        if info.snapshot_key:
            await _add_rw_layer(scope, info, index)
        target = await _write_index(scope.services, index, info.id)
        labels = {CHECKPOINT_LABEL: "true"}
        record = await ImageStore(scope.services).create_or_update(name, target, labels=labels)
    return Image(scope.services, record)


async def checkpoint_container(
    scope: Scope, info: ContainerInfo, name: str, parts: Parts, options: CheckpointOptions | None
) -> Image:
    """Write the checkpoint of a container; see `Container.checkpoint`."""
    options = options or CheckpointOptions(file_locks=True)
    if parts.image and not info.image:
        raise FailedPrecondition(f"container {info.id!r} was made without an image; give image=False")
    if parts.rw and not info.snapshot_key:
        raise FailedPrecondition(f"container {info.id!r} has no snapshot; give rw=False")
    if options.image_path:
        raise InvalidArgument("image_path leaves nothing to put into the checkpoint of a container")
    images = ImageStore(scope.services)
    if await _has_image(images, name):
        raise AlreadyExists(f"there is an image {name!r} already")
    index = Index(annotations={RUNTIME_ANNOTATION: info.runtime, SNAPSHOTTER_ANNOTATION: info.snapshotter})
    if info.image:
        index.annotations[IMAGE_ANNOTATION] = info.image
    ends = parts.task and options.exit
    async with _checkpointing(scope, info.id), lease(scope.services), paused(scope, info.id, ends=ends):
        if parts.image:
            index.entries.append((await images.get(info.image)).target)
        if parts.task:
            await _add_task(scope, info, index, options)
            index.add(await _write_any(scope.services, OPTIONS, typeurl.pack(options.raw)))
        if parts.runtime and info.raw.runtime is not None and info.raw.runtime.options is not None:
            index.add(await _write_any(scope.services, RUNTIME_OPTIONS, info.raw.runtime.options))
        if parts.rw:
            await _add_rw_layer(scope, info, index)
        target = await _write_index(scope.services, index, info.id)
        record = await images.create(name, target)
    return Image(scope.services, record)


async def _has_image(images: ImageStore, name: str) -> bool:
    try:
        await images.get(name)
    except NotFound:
        return False
    return True


def _checkpointing(scope: Scope, container_id: str) -> AbstractAsyncContextManager[None]:
    """Make one checkpoint of a container after the other: the first to end would resume it under the second's hands."""
    return alone(scope.services, "checkpoint", container_id)


@asynccontextmanager
async def paused(scope: Scope, container_id: str, *, ends: bool) -> AsyncIterator[None]:
    """Keep a task paused for the length of the block, unless it is or does not run.

    Args:
        scope: Where it is.
        container_id: Its id.
        ends: Whether the block ends the task: then it may be gone afterwards.
    """
    tasks = scope.services.tasks
    try:
        reply = await tasks.get(GetRequest(container_id=container_id))
    except NotFound:
        yield
        return
    if reply.process is None or reply.process.status != Status.RUNNING:
        yield
        return
    resume = partial(_resume, scope, container_id, quietly=ends)
    await carry_through(partial(tasks.pause, PauseTaskRequest(container_id=container_id)), undo=resume)
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await resume()


async def _resume(scope: Scope, container_id: str, *, quietly: bool) -> None:
    try:
        await scope.services.tasks.resume(ResumeTaskRequest(container_id=container_id), timeout=_UNDO_TIMEOUT)
    except ContainerdError as exc:
        log = _log.debug if quietly else _log.warning
        log("not resumed after the checkpoint", container_id=container_id, error=str(exc))


async def _add_task(
    scope: Scope, info: ContainerInfo, index: Index, options: CheckpointOptions | None
) -> None:
    """Have the processes dumped, and add what came of it."""
    request = CheckpointTaskRequest(
        container_id=info.id, options=typeurl.pack(options.raw) if options is not None else None
    )
    async with _spec_put_aside(scope, info):
        # Given up, what it wrote is collected when the lease ends.
        reply = await carry_through(partial(scope.services.tasks.checkpoint, request))
    for raw in reply.descriptors:
        index.add(Descriptor.from_raw(raw))


@asynccontextmanager
async def _spec_put_aside(scope: Scope, info: ContainerInfo) -> AsyncIterator[None]:
    """Let containerd write the spec of a container into the content store although it is there already.

    It does so after the dump. Before 2.0 it then fails if an earlier checkpoint of the container has left the same
    spec there, and the dump is lost; the processes, too, if they were to end by it.
    """
    if info.raw.spec is None or not (await scope.core.daemon_version()).startswith("1."):
        yield
        return
    content = ContentStore(scope.services)
    data = encode(info.raw.spec)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    try:
        labels = (await content.info(digest)).labels
    except NotFound:
        yield
        return
    try:
        with anyio.CancelScope(shield=True):
            await content.delete(digest)
    except NotFound:  # collected meanwhile: nobody needs it
        yield
        return
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await content.write(f"checkpoint-{unique_name()}", data, labels=labels)


async def _add_rw_layer(scope: Scope, info: ContainerInfo, index: Index) -> None:
    """Add the layer of what was changed in the root filesystem (Go: ``rootfs.CreateDiff``)."""
    snapshots = Snapshotter(scope.services, info.snapshotter)
    about = await snapshots.stat(info.snapshot_key)
    below = f"{info.snapshot_key}-parent-view-{unique_name()}"
    lower = await snapshots.view(below, about.parent)
    try:
        if about.kind is Kind.ACTIVE:
            upper = await snapshots.mounts(info.snapshot_key)
            ref = f"checkpoint-rw-{info.snapshot_key}-{unique_name()}"
            index.add(await Diff(scope.services).diff(lower, upper, ref=ref))
    finally:
        with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
            try:
                await snapshots.remove(below)
            except ContainerdError as exc:
                _log.debug("snapshot not removed", key=below, error=str(exc))


async def _write_any(services: Services, media_type: str, value: Any) -> Descriptor:
    data = encode(value)
    digest = await ContentStore(services).write(f"checkpoint-{unique_name()}", data)
    return Descriptor(media_type, digest, len(data))


async def _write_index(services: Services, index: Index, container_id: str) -> Descriptor:
    """Write the index, with the labels that keep what it refers to."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry.to_json() for entry in index.entries],
        "annotations": index.annotations,
    }
    data = json.dumps(document, separators=(",", ":")).encode()
    labels = {f"containerd.io/gc.ref.content.{n}": entry.digest for n, entry in enumerate(index.entries)}
    ref = f"checkpoint-index-{container_id}-{unique_name()}"
    digest = await ContentStore(services).write(ref, data, labels=labels)
    return Descriptor(OCI_INDEX, digest, len(data))
