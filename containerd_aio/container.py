"""Containers: records that say what to run, and the tasks made from them."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through
from containerd_aio._identifiers import check_identifier
from containerd_aio._log import get_logger
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import (
    DeleteContainerRequest,
    GetContainerRequest,
    ListContainersRequest,
)
from containerd_aio.api.containerd.services.tasks.v1 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetRequest,
    KillRequest,
    WaitRequest,
)
from containerd_aio.errors import (
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from containerd_aio.events.inquiry import task_state
from containerd_aio.services.snapshots import Snapshotter, mounts_to_raw
from containerd_aio.stdio import null
from containerd_aio.task import Task, start_io

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from containerd_aio._scope import Scope
    from containerd_aio.oci import Spec
    from containerd_aio.services.snapshots import Mount
    from containerd_aio.stdio.creators import IOCreator

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
            InvalidArgument: `io` has a terminal and the container's spec none, or the other way round.
            NotFound: The container or its snapshot is gone.
            Unknown: The runtime refused; the text is runc's (a missing binary, for example).
            ConnectError: containerd can't be reached, so that its exit could not be seen.
        """
        creator = io or null()
        info = await self.info()
        _check_terminal(info, creator)
        if rootfs is None and info.snapshot_key:
            rootfs = await Snapshotter(self._scope.services, info.snapshotter).mounts(info.snapshot_key)
        hub = await self._scope.core.live_hub()
        process_io = await creator.create(self.id, fifo_root=self._scope.core.fifo_root)
        config = process_io.config
        request = CreateTaskRequest(
            container_id=self.id,
            rootfs=mounts_to_raw(rootfs or ()),
            stdin=config.stdin,
            stdout=config.stdout,
            stderr=config.stderr,
            terminal=config.terminal,
        )
        as_of = hub.registry.moment
        try:
            start_io(self._scope, self.id, "", process_io)
            reply = await carry_through(
                partial(self._scope.services.tasks.create, request), undo=self._remove_task
            )
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                if isinstance(exc, DeadlineExceeded):
                    await self._remove_task()  # it may have been made all the same
                await process_io.aclose()
            raise
        incarnation, effects = hub.registry.created(
            self._scope.namespace, self.id, reply.pid, as_of=as_of, now=anyio.current_time()
        )
        hub.tell(effects)
        return Task(self._scope, incarnation.init, process_io)

    async def _remove_task(self) -> None:
        """Remove the task of a create that was given up: nobody has a handle on it."""
        tasks = self._scope.services.tasks
        with anyio.move_on_after(_UNDO_TIMEOUT):
            # Killed first: a shim that deletes a process which never ran waits ten seconds for its output.
            with suppress(ContainerdError):
                await tasks.kill(KillRequest(container_id=self.id, signal=signal.SIGKILL, all=True))
                await tasks.wait(WaitRequest(container_id=self.id))
            try:
                await tasks.delete(DeleteTaskRequest(container_id=self.id))
            except NotFound:
                pass
            except ContainerdError as exc:
                _log.warning(
                    "the task of a create that was given up is left", container_id=self.id, error=str(exc)
                )

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
        process_io = None
        if io is not None:
            from containerd_aio.stdio.fifo import IOConfig

            process = reply.process
            process_io = await io.attach(
                IOConfig(process.stdin, process.stdout, process.stderr, process.terminal)
            )
        if process_io is not None:
            start_io(self._scope, self.id, "", process_io)
            process_io.started()
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


def _check_terminal(info: ContainerInfo, io: IOCreator) -> None:
    """Refuse streams of the wrong kind here: the runtime's own words about it would be a riddle."""
    spec = typeurl.unpack(info.raw.spec) if info.raw.spec is not None else {}
    wanted = bool((spec.get("process") or {}).get("terminal"))
    if wanted and not io.terminal:
        raise InvalidArgument(
            f"the spec of container {info.id!r} asks for a terminal and io has none; give io=stdio.pipes(terminal=True), "
            f"stdio.terminal() or the like"
        )
    if io.terminal and not wanted:
        raise InvalidArgument(
            f"io has a terminal and the spec of container {info.id!r} none; create it with spec_opts=[oci.with_tty()]"
        )


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
