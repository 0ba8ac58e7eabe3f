"""Containers: records that say what to run, and the tasks made from them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import cleaning_up, through_a_restart
from containerd_aio._identifiers import check_identifier
from containerd_aio._log import get_logger
from containerd_aio._new_task import TaskOptions, create_task, unpack_runtime_options
from containerd_aio._signals import parse_signal
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import (
    DeleteContainerRequest,
    GetContainerRequest,
    ListContainersRequest,
    UpdateContainerRequest,
)
from containerd_aio.api.containerd.services.tasks.v1 import GetRequest
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import FieldMask
from containerd_aio.errors import (
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from containerd_aio.events.inquiry import task_state
from containerd_aio.image import Image
from containerd_aio.oci import RuncOptions, to_json
from containerd_aio.services._convert import label_updates, to_datetime
from containerd_aio.services.snapshots import Snapshotter
from containerd_aio.task import Task, attach_io

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from betterproto2 import Message

    from containerd_aio._scope import Scope
    from containerd_aio.checkpoint import CheckpointOptions
    from containerd_aio.oci import Spec
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.snapshots import Mount
    from containerd_aio.stdio.creators import IOCreator

STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal"
"""Label of a container: the signal that its image wants to be stopped with."""

_UNDO_TIMEOUT = 10.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container record as containerd keeps it.

    Attributes:
        id: Its id.
        image: Name of the image it was made from; empty for none.
        labels: Its labels.
        runtime: Name of the runtime, such as ``io.containerd.runc.v2``.
        snapshotter: Snapshotter of its root filesystem; empty for none.
        snapshot_key: Key of its snapshot; empty for none.
        sandbox: Id of the sandbox it belongs to; empty for none, and always with containerd 1.6.
        created_at: When it was made.
        updated_at: When it was changed last.
        raw: The message.
    """

    id: str
    image: str
    labels: Mapping[str, str]
    runtime: str
    snapshotter: str
    snapshot_key: str
    sandbox: str
    created_at: datetime | None
    updated_at: datetime | None
    raw: RawContainer = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawContainer) -> Self:
        """Read the message."""
        return cls(
            id=raw.id,
            image=raw.image,
            labels=dict(raw.labels),
            runtime=raw.runtime.name if raw.runtime else "",
            snapshotter=raw.snapshotter,
            snapshot_key=raw.snapshot_key,
            sandbox=raw.sandbox,
            created_at=to_datetime(raw.created_at),
            updated_at=to_datetime(raw.updated_at),
            raw=raw,
        )

    @property
    def spec(self) -> Spec | None:
        """Its OCI runtime spec; None if it has none.

        Raises:
            InvalidArgument: It is not the JSON that it should be.
        """
        if self.raw.spec is None:
            return None
        spec: Spec = typeurl.unpack(self.raw.spec)
        return spec

    @property
    def runtime_options(self) -> RuncOptions | Any | None:
        """The options of its runtime: `oci.RuncOptions`, or what `typeurl.unpack` makes of those of another runtime."""
        packed = self.raw.runtime.options if self.raw.runtime else None
        return None if packed is None else unpack_runtime_options(packed)

    @property
    def extensions(self) -> dict[str, Any]:
        """What is kept with the record, by name, as `typeurl.unpack` returns it."""
        return {name: typeurl.unpack(value) for name, value in self.raw.extensions.items()}


class Container:
    """A container. As an async context manager it is deleted at the end, with its task and its snapshot.

    Made by `Client.new_container`, `Client.container` and `Client.restore`.
    """

    def __init__(self, scope: Scope, info: ContainerInfo) -> None:
        self._scope = scope
        self._info = info

    def __repr__(self) -> str:
        return f"<Container {self._scope.namespace}/{self.id}>"

    @property
    def id(self) -> str:
        """Its id."""
        return self._info.id

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels, as last read."""
        return self._info.labels

    async def info(self, *, refresh: bool = True) -> ContainerInfo:
        """Return the record.

        Args:
            refresh: Read it again; else it is as last read (Go: ``WithoutRefreshedMetadata``).

        Raises:
            NotFound: It was deleted.
        """
        if refresh:
            self._info = await _get(self._scope, self.id)
        return self._info

    async def spec(self) -> Spec:
        """Return its OCI runtime spec.

        Raises:
            NotFound: It was deleted.
            FailedPrecondition: It was made without a spec.
        """
        spec = (await self.info()).spec
        if spec is None:
            raise FailedPrecondition(f"container {self.id!r} has no spec")
        return spec

    async def image(self) -> Image:
        """Return the image it was made from.

        Raises:
            NotFound: It was made without one, or the image was deleted since.
        """
        name = (await self.info()).image
        if not name:
            raise NotFound(f"container {self.id!r} was not made from an image")
        return await Image.get(self._scope.services, name)

    async def extensions(self) -> dict[str, Any]:
        """Return what is kept with the record, by name; see `ContainerInfo.extensions`.

        Raises:
            NotFound: It was deleted.
        """
        return (await self.info()).extensions

    async def set_labels(self, labels: Mapping[str, str | None]) -> Mapping[str, str]:
        """Change labels, and return all of them.

        Args:
            labels: New values; None or an empty one removes the label. Others stay.

        Raises:
            NotFound: It was deleted.
            InvalidArgument: A label is too long: name and value together have at most 4096 bytes.
        """
        return (await self.update(labels=labels)).labels

    async def stop_signal(self, default: int | str = "SIGTERM") -> int:
        """Return the number of the signal that it wants to be stopped with (Go: ``GetStopSignal``).

        Args:
            default: When its labels don't name one; see ``stop_signal`` of `Client.new_container`.

        Raises:
            InvalidArgument: There is no such signal.
        """
        return parse_signal((await self.info()).labels.get(STOP_SIGNAL_LABEL) or default)

    async def update(
        self,
        *,
        labels: Mapping[str, str | None] | None = None,
        spec: Spec | None = None,
        extensions: Mapping[str, Message] | None = None,
        image: Image | str | None = None,
        snapshot: str | None = None,
    ) -> ContainerInfo:
        """Change the record: what is given, and nothing else. A running task is not touched.

        Args:
            labels: New values of labels; None or an empty one removes the label.
            spec: Another OCI spec, for the next task.
            extensions: New values of extensions. containerd has no way to remove one.
            image: Another image, or its name.
            snapshot: Key of another snapshot of the same snapshotter.

        Returns:
            The record as it is now.

        Raises:
            NotFound: It was deleted.
            InvalidArgument: A value can't be used.
        """
        mask = [f"labels.{name}" for name in labels or ()]
        record = RawContainer(id=self.id, labels=label_updates(labels or {}))
        if spec is not None:
            mask.append("spec")
            record.spec = typeurl.pack(to_json(spec), typeurl.SPEC)
        if image is not None:
            mask.append("image")
            record.image = image if isinstance(image, str) else image.name
        if snapshot is not None:
            mask.append("snapshotkey")
            record.snapshot_key = snapshot
        if extensions:
            record.extensions = pack_extensions(extensions)
            mask += [f"extensions.{name}" for name in extensions]
        if not mask:
            return await self.info()  # an empty mask would replace everything
        reply = await self._scope.services.containers.update(
            UpdateContainerRequest(container=record, update_mask=FieldMask(paths=mask))
        )
        assert reply.container is not None
        self._info = ContainerInfo.from_raw(reply.container)
        return self._info

    async def new_task(
        self,
        *,
        io: IOCreator | None = None,
        rootfs: Sequence[Mount] | None = None,
        options: RuncOptions | None = None,
        runtime_path: str | None = None,
        checkpoint: Image | Descriptor | None = None,
    ) -> Task:
        """Create its task: the process exists afterwards, and waits for `Task.start`.

        Args:
            io: Its standard streams; `stdio.null` by default.
            rootfs: Mounts of the root filesystem; those of its snapshot by default (Go: ``WithRootFS``).
            options: Options of the runc shim for this task. They are put over those of the container one by one, as
                Go's client does since 2.1; the daemon would replace all of them.
            runtime_path: Absolute path of the shim to use instead of the container's.
            checkpoint: What the processes shall continue from, once started: an image from `Task.checkpoint` or
                `checkpoint`, or the descriptor of its CRIU archive (Go: ``WithTaskCheckpoint``). For one that was
                written to a directory, give ``options=oci.RuncOptions(criu_image_path=...)``.

        Raises:
            AlreadyExists: It has a task.
            InvalidArgument: `io` has a terminal and the container's spec none, or the other way round; or `options` are
                given and its runtime has options of another kind.
            NotFound: The container or its snapshot is gone, or `checkpoint` has no state of processes.
            Unknown: The runtime refused; the text is runc's (a missing binary, for example).
            ConnectError: containerd can't be reached, so that its exit could not be seen.
        """
        wanted = TaskOptions(
            io=io, rootfs=rootfs, options=options, runtime_path=runtime_path, checkpoint=checkpoint
        )
        return await create_task(self._scope, await self.info(), wanted)

    async def checkpoint(
        self,
        name: str,
        *,
        image: bool = True,
        task: bool = True,
        runtime: bool = True,
        rw: bool = True,
        options: CheckpointOptions | None = None,
    ) -> Image:
        """Put the container into an image from which `Client.restore` makes another one.

        A running task is paused meanwhile. What is written is held together by an index in the content store, which can
        be exported and pushed like an image's.

        Args:
            name: Name of the new image.
            image: Include the image the container was made from (Go: ``WithCheckpointImage``).
            task: Include the state of its processes (``WithCheckpointTask``). It needs CRIU in the daemon's ``PATH``.
            runtime: Include the options of the runtime (``WithCheckpointRuntime``); its name always is.
            rw: Include what was changed in the root filesystem (``WithCheckpointRW``).
            options: How the processes are dumped, and whether they end by it; file locks are kept by default.

        Raises:
            AlreadyExists: There is an image of that name.
            FailedPrecondition: It was made without an image or without a snapshot, and `image` or `rw` is set.
            NotFound: It has no task, and `task` is set.
            Unknown: CRIU is missing or can't dump these processes; the text is runc's.
        """
        from containerd_aio.checkpoint import Parts, checkpoint_container

        parts = Parts(image=image, task=task, runtime=runtime, rw=rw)
        return await checkpoint_container(self._scope, await self.info(), name, parts, options)

    async def task(self, *, io: IOCreator | None = None) -> Task:
        """Return a handle on its existing task.

        Args:
            io: How to attach to its standard streams; None leaves them alone. Bytes go to one reader only.

        Raises:
            NotFound: It has no task.
            Unavailable: It has one, whose state the daemon can't tell at the moment.
        """
        hub = await self._scope.core.live_hub()
        as_of = hub.registry.moment
        reply = await self._scope.services.tasks.get(GetRequest(container_id=self.id))
        if reply.process is None:
            raise NotFound(f"container {self.id!r} has no task")
        state = task_state(self._scope.namespace, reply.process, "get")
        if state.unclear:
            raise Unavailable(f"containerd has a task for {self.id!r} but can't tell its state; try again")
        incarnation, effects = hub.registry.adopt(state, as_of=as_of, now=anyio.current_time())
        hub.tell(effects)
        process = reply.process
        config = (process.stdin, process.stdout, process.stderr, process.terminal)
        process_io = await attach_io(self._scope, self.id, "", io, config)
        return Task(self._scope, incarnation.init, process_io)

    async def delete(self, *, snapshot: bool = True) -> None:
        """Delete the record, and with it the snapshot it names.

        Args:
            snapshot: Whether to remove the snapshot (Go: ``WithSnapshotCleanup``).

        Raises:
            FailedPrecondition: It has a task.
            NotFound: It was deleted before.
        """
        info = await self.info()
        try:
            await self._scope.services.tasks.get(GetRequest(container_id=self.id))
        except NotFound:
            pass
        else:
            raise FailedPrecondition(f"container {self.id!r} has a task; delete that first")
        if snapshot and info.snapshot_key:
            # Before the record: nothing else holds the snapshot, and a collected one could not be removed any more.
            with suppress(NotFound):
                await Snapshotter(self._scope.services, info.snapshotter).remove(info.snapshot_key)
        await self._scope.services.containers.delete(DeleteContainerRequest(id=self.id))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Delete it; an error of the body is not replaced by one of the clean-up."""
        try:
            with cleaning_up(f"container {self.id!r}", within=_UNDO_TIMEOUT * 4):
                await through_a_restart(self._delete_with_task)
        except ContainerdError as failure:
            if exc is None:
                raise
            _log.warning("container not cleaned up", container_id=self.id, error=str(failure))

    async def _delete_with_task(self) -> None:
        try:
            task = await self.task()
        except NotFound:
            pass
        else:
            await task.delete(kill=True)
        with suppress(NotFound):
            await self.delete()


def pack_extensions(extensions: Mapping[str, Message]) -> dict[str, AnyMessage]:
    """Return extensions as containerd keeps them; what is packed already stays as it is.

    Raises:
        InvalidArgument: A name is empty.
    """
    if "" in extensions:
        raise InvalidArgument("the name of an extension is empty")
    return {
        name: value if isinstance(value, AnyMessage) else typeurl.pack(value)
        for name, value in extensions.items()
    }


async def _get(scope: Scope, container_id: str) -> ContainerInfo:
    reply = await scope.services.containers.get(GetContainerRequest(id=container_id))
    if reply.container is None:
        raise NotFound(f"container {container_id!r}: containerd sent no record")
    return ContainerInfo.from_raw(reply.container)


async def load_container(scope: Scope, container_id: str) -> Container:
    """Return the container of that id.

    Raises:
        NotFound: There is none.
    """
    return Container(scope, await _get(scope, check_identifier(container_id, "container id")))


async def list_containers(scope: Scope, filters: Sequence[str]) -> list[Container]:
    """Return the containers that match any of `filters`, or all.

    They are streamed where the daemon can: a single reply could exceed the size of a message.
    """
    request = ListContainersRequest(filters=list(filters))
    try:
        return [
            Container(scope, ContainerInfo.from_raw(message.container))
            async for message in scope.services.containers.list_stream(request)
            if message.container is not None
        ]
    except Unimplemented:
        reply = await scope.services.containers.list(request)
        return [Container(scope, ContainerInfo.from_raw(raw)) for raw in reply.containers]
