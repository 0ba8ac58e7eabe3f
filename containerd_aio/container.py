"""Containers: records that say what to run, and the tasks made from them."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio
import structlog

from containerd_aio import typeurl
from containerd_aio._identifiers import check_identifier
from containerd_aio._mount import temporary_mount
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import (
    ContainerRuntime,
    CreateContainerRequest,
    DeleteContainerRequest,
    GetContainerRequest,
    ListContainersRequest,
)
from containerd_aio.api.containerd.services.tasks.v1 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetRequest,
    KillRequest,
)
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from containerd_aio.events.inquiry import task_state
from containerd_aio.image import Image
from containerd_aio.oci import SpecContext, generate_spec, to_json, with_image_config, with_process_args
from containerd_aio.services.leases import lease
from containerd_aio.services.snapshots import Snapshotter, mounts_to_raw, resolve_snapshotter
from containerd_aio.stdio import null
from containerd_aio.task import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from betterproto2 import Message

    from containerd_aio._scope import Scope
    from containerd_aio.oci import Spec, SpecOpt
    from containerd_aio.services.snapshots import Mount
    from containerd_aio.stdio.creators import IOCreator

DEFAULT_RUNTIME = "io.containerd.runc.v2"
"""The runtime of a container that names none, on Linux (Go: ``defaults.DefaultRuntime``)."""

_UNDO_TIMEOUT = 10.0

_log = structlog.get_logger(__name__)


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
        raw: The message.
    """

    id: str
    image: str
    labels: Mapping[str, str]
    runtime: str
    snapshotter: str
    snapshot_key: str
    raw: RawContainer

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
            raw=raw,
        )


class Container:
    """A container. As an async context manager it is deleted at the end, with its task and its snapshot.

    Made by `Client.new_container` and `Client.container`.

    Attributes:
        id: Its id.
    """

    def __init__(self, scope: Scope, info: ContainerInfo) -> None:
        self._scope = scope
        self._info = info
        self.id = info.id

    def __repr__(self) -> str:
        return f"<Container {self._scope.namespace}/{self.id}>"

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels, as last read."""
        return self._info.labels

    async def info(self) -> ContainerInfo:
        """Read the record again.

        Raises:
            NotFound: It was deleted.
        """
        self._info = await _get(self._scope, self.id)
        return self._info

    async def spec(self) -> Spec:
        """Return its OCI runtime spec.

        Raises:
            NotFound: It was deleted.
            FailedPrecondition: It was made without a spec.
        """
        raw = (await self.info()).raw.spec
        if raw is None:
            raise FailedPrecondition(f"container {self.id!r} has no spec")
        spec: Spec = typeurl.unpack(raw)
        return spec

    async def new_task(self, *, io: IOCreator | None = None, rootfs: Sequence[Mount] | None = None) -> Task:
        """Create its task: the process exists afterwards, and waits for `Task.start`.

        Args:
            io: Its standard streams; `stdio.null` by default.
            rootfs: Mounts of the root filesystem; those of its snapshot by default (Go: ``WithRootFS``).

        Raises:
            AlreadyExists: It has a task.
            NotFound: The container or its snapshot is gone.
            Unknown: The runtime refused; the text is runc's (a missing binary, for example).
            ConnectError: containerd can't be reached, so that its exit could not be seen.
        """
        creator = io or null()
        info = await self.info()
        if rootfs is None and info.snapshot_key:
            rootfs = await Snapshotter(self._scope.services, info.snapshotter).mounts(info.snapshot_key)
        hub = await self._scope.core.live_hub()
        process_io = await creator.create(self.id, fifo_root=self._scope.core.fifo_root)
        incarnation = hub.registry.creating(self._scope.namespace, self.id)
        task = Task(self._scope, incarnation.init, process_io)
        config = process_io.config
        request = CreateTaskRequest(
            container_id=self.id,
            rootfs=mounts_to_raw(rootfs or ()),
            stdin=config.stdin,
            stdout=config.stdout,
            stderr=config.stderr,
            terminal=config.terminal,
        )
        try:
            task.start_io()
            reply = await self._scope.services.tasks.create(request)
        except BaseException as exc:
            hub.registry.create_failed(incarnation)
            with anyio.CancelScope(shield=True):
                if not isinstance(exc, ContainerdError) or isinstance(exc, TimeoutError):
                    await self._undo_create()
                await process_io.aclose()
            raise
        hub.tell(hub.registry.created(incarnation, reply.pid, anyio.current_time()))
        return task

    async def _undo_create(self) -> None:
        """Remove the task of a create that was cancelled: nobody has a handle on it."""
        tasks = self._scope.services.tasks
        with anyio.move_on_after(_UNDO_TIMEOUT):
            for _ in range(2):
                try:
                    await tasks.delete(DeleteTaskRequest(container_id=self.id))
                except NotFound:
                    return
                except ContainerdError as exc:
                    _log.debug("task of a cancelled create not removed", container_id=self.id, error=str(exc))
                    try:
                        await tasks.kill(KillRequest(container_id=self.id, signal=9, all=True))
                    except ContainerdError:
                        continue

    async def task(self, *, io: IOCreator | None = None) -> Task:
        """Return a handle on its existing task.

        Args:
            io: How to attach to its standard streams; None leaves them alone. Bytes go to one reader only.

        Raises:
            NotFound: It has no task.
        """
        hub = await self._scope.core.live_hub()
        # Watched before it is asked for: an exit in between is seen as an event.
        incarnation = hub.registry.watch(self._scope.namespace, self.id)
        reply = await self._scope.services.tasks.get(GetRequest(container_id=self.id))
        if reply.process is None:
            raise NotFound(f"container {self.id!r} has no task")
        state = task_state(self._scope.namespace, reply.process, "get")
        hub.tell(hub.registry.observed(state, anyio.current_time()))
        incarnation = hub.registry.watch(self._scope.namespace, self.id)
        process_io = None
        if io is not None:
            from containerd_aio.stdio.fifo import IOConfig

            process = reply.process
            process_io = await io.attach(
                IOConfig(process.stdin, process.stdout, process.stderr, process.terminal)
            )
        task = Task(self._scope, incarnation.init, process_io)
        if process_io is not None:
            task.start_io()
            process_io.started()
        return task

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
        with anyio.CancelScope(shield=True):
            try:
                with anyio.fail_after(_UNDO_TIMEOUT * 4):
                    await self._delete_with_task()
            except (ContainerdError, TimeoutError) as failure:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """What `Client.new_container` was asked for; see there."""

    image: Image | str | None = None
    args: Sequence[str] | None = None
    spec_opts: Sequence[SpecOpt] = ()
    spec: Spec | None = None
    snapshot: str | None = None
    snapshotter: str | None = None
    runtime: str | None = None
    runtime_options: Message | None = None
    labels: Mapping[str, str] | None = None
    extensions: Mapping[str, Message] | None = None

    def check(self) -> None:
        """Refuse what contradicts itself, before anything is made.

        Raises:
            InvalidArgument: Options contradict each other or are of the wrong kind.
        """
        if self.spec is not None and (self.args is not None or self.spec_opts):
            raise InvalidArgument("give either a whole spec, or args and spec_opts to make one, not both")
        if self.spec is None and self.args is None and self.image is None and not self.spec_opts:
            raise InvalidArgument("nothing to run: give an image, args, spec_opts or a spec")
        if isinstance(self.args, str | bytes):
            raise InvalidArgument(
                f"args is a list of strings, not {self.args!r}; for a shell: ['sh', '-c', ...]"
            )
        for name in self.extensions or ():
            if not name:
                raise InvalidArgument("the name of an extension is empty")


async def create_container(scope: Scope, container_id: str, options: ContainerOptions) -> Container:
    """Make a container record, and the snapshot for its root filesystem; see `Client.new_container`."""
    check_identifier(container_id, "container id")
    options.check()
    snapshotter = await resolve_snapshotter(scope.services, options.snapshotter)
    # Without a lease the garbage collector may take the new snapshot before the record refers to it.
    async with lease(scope.services):
        image = (
            await Image.get(scope.services, options.image)
            if isinstance(options.image, str)
            else options.image
        )
        key = options.snapshot or (container_id if image is not None else "")
        made_snapshot = image is not None and options.snapshot is None
        if image is not None and made_snapshot:
            await _prepare_snapshot(scope, image, snapshotter, key)
        try:
            spec = options.spec
            if spec is None:
                spec = await _generate(scope, container_id, options, image, snapshotter, key)
            reply = await scope.services.containers.create(
                CreateContainerRequest(
                    container=RawContainer(
                        id=container_id,
                        image=image.name if image is not None else "",
                        labels=dict(options.labels or {}),
                        runtime=ContainerRuntime(
                            name=options.runtime or DEFAULT_RUNTIME,
                            options=typeurl.pack(options.runtime_options)
                            if options.runtime_options
                            else None,
                        ),
                        spec=typeurl.pack(to_json(spec), typeurl.SPEC),
                        snapshotter=snapshotter if key else "",
                        snapshot_key=key,
                        extensions={
                            name: typeurl.pack(value) for name, value in (options.extensions or {}).items()
                        },
                    )
                )
            )
        except BaseException:
            if made_snapshot:
                await _remove_snapshot(scope, snapshotter, key)
            raise
    assert reply.container is not None
    return Container(scope, ContainerInfo.from_raw(reply.container))


async def _prepare_snapshot(scope: Scope, image: Image, snapshotter: str, key: str) -> None:
    if not await image.is_unpacked(snapshotter):
        await image.unpack(snapshotter)
    try:
        await Snapshotter(scope.services, snapshotter).prepare(key, await image.chain_id())
    except AlreadyExists as exc:
        raise AlreadyExists(
            f"there is a snapshot {key!r} already; remove it, or name another one with snapshot=",
            method=exc.method,
        ) from exc


async def _remove_snapshot(scope: Scope, snapshotter: str, key: str) -> None:
    with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
        try:
            await Snapshotter(scope.services, snapshotter).remove(key)
        except ContainerdError as exc:
            _log.debug("snapshot not removed", key=key, error=str(exc))


async def _generate(
    scope: Scope,
    container_id: str,
    options: ContainerOptions,
    image: Image | None,
    snapshotter: str,
    key: str,
) -> Spec:
    @asynccontextmanager
    async def rootfs() -> AsyncIterator[Path]:
        mounts = await Snapshotter(scope.services, snapshotter).mounts(key)
        async with temporary_mount(mounts) as path:
            yield path

    opts: list[SpecOpt] = []
    if image is not None:
        opts.append(with_image_config())
    if options.args is not None:
        opts.append(with_process_args(*options.args))
    context = SpecContext(
        container_id=container_id,
        namespace=scope.namespace,
        version=await scope.core.daemon_version(),
        image_config=await image.config() if image is not None else None,
        rootfs=rootfs if key else None,
    )
    return await generate_spec(context, *opts, *options.spec_opts)
