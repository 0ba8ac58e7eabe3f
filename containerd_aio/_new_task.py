"""How a task comes to be: streams, mounts, options, and the request."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through
from containerd_aio._log import get_logger
from containerd_aio.api.containerd.services.tasks.v1 import (
    CreateTaskRequest,
    DeleteTaskRequest,
    GetRequest,
    KillRequest,
    WaitRequest,
)
from containerd_aio.errors import ContainerdError, DeadlineExceeded, InvalidArgument, NotFound
from containerd_aio.image import Image
from containerd_aio.oci import RuncOptions
from containerd_aio.services.snapshots import Snapshotter, mounts_to_raw
from containerd_aio.stdio import null
from containerd_aio.task import Task, start_io

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from containerd_aio._scope import Scope
    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.container import ContainerInfo
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.snapshots import Mount
    from containerd_aio.stdio.creators import IOCreator

_UNDO_TIMEOUT = 10.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What `Container.new_task` was asked for; see there."""

    io: IOCreator | None = None
    rootfs: Sequence[Mount] | None = None
    options: RuncOptions | None = None
    runtime_path: str | None = None
    checkpoint: Image | Descriptor | None = None


async def create_task(scope: Scope, info: ContainerInfo, wanted: TaskOptions) -> Task:
    """Make the task of a container; see `Container.new_task`."""
    creator = wanted.io or null()
    spec = typeurl.unpack(info.raw.spec) if info.raw.spec is not None else {}
    _check_terminal(info.id, spec, creator)
    if wanted.runtime_path and not wanted.runtime_path.startswith("/"):
        raise InvalidArgument(f"runtime_path is {wanted.runtime_path!r}; it must be absolute")
    options = merged_options(info, wanted.options)
    checkpoint = await _criu_archive(scope, wanted.checkpoint)
    rootfs = wanted.rootfs
    if rootfs is None and info.snapshot_key:
        rootfs = await Snapshotter(scope.services, info.snapshotter).mounts(info.snapshot_key)
        rootfs = with_mount_label(rootfs, spec)
    hub = await scope.core.live_hub()
    process_io = await creator.create(info.id, fifo_root=scope.core.fifo_root)
    config = process_io.config
    request = CreateTaskRequest(
        container_id=info.id,
        rootfs=mounts_to_raw(rootfs or ()),
        stdin=config.stdin,
        stdout=config.stdout,
        stderr=config.stderr,
        terminal=config.terminal,
        checkpoint=checkpoint.to_raw() if checkpoint is not None else None,
        options=options,
        runtime_path=wanted.runtime_path or "",
    )
    as_of = hub.registry.moment
    before = {i.pid for i in hub.registry.incarnations(scope.namespace, info.id) if i.open}
    undo = partial(_remove_task, scope, info.id, before)
    try:
        start_io(scope, info.id, "", process_io)
        reply = await carry_through(partial(scope.services.tasks.create, request), undo=undo)
    except BaseException as exc:
        with anyio.CancelScope(shield=True):
            if isinstance(exc, DeadlineExceeded):
                await undo()
            await process_io.aclose()
        raise
    incarnation, effects = hub.registry.created(
        scope.namespace, info.id, reply.pid, as_of=as_of, now=anyio.current_time()
    )
    hub.tell(effects)
    return Task(scope, incarnation.init, process_io)


async def _remove_task(scope: Scope, container_id: str, before: Collection[int]) -> None:
    """Remove the task that a create may have made that was given up, unless its pid is of one that was there `before`."""
    tasks = scope.services.tasks
    with anyio.move_on_after(_UNDO_TIMEOUT):
        with suppress(ContainerdError):
            process = (await tasks.get(GetRequest(container_id=container_id))).process
            if process is not None and process.pid and process.pid in before:
                return
        # Killed first: a shim that deletes a process which never ran waits ten seconds for its output.
        with suppress(ContainerdError):
            await tasks.kill(KillRequest(container_id=container_id, signal=signal.SIGKILL, all=True))
            await tasks.wait(WaitRequest(container_id=container_id))
        try:
            await tasks.delete(DeleteTaskRequest(container_id=container_id))
        except NotFound:
            pass
        except ContainerdError as exc:
            _log.warning(
                "the task of a create that was given up is left", container_id=container_id, error=str(exc)
            )


def _check_terminal(container_id: str, spec: Any, io: IOCreator) -> None:
    """Refuse streams of the wrong kind here: the runtime's own words about it would be a riddle."""
    wanted = bool((spec.get("process") or {}).get("terminal"))
    if wanted and not io.terminal:
        raise InvalidArgument(
            f"the spec of container {container_id!r} asks for a terminal and io has none; give "
            f"io=stdio.pipes(terminal=True), stdio.terminal() or the like"
        )
    if io.terminal and not wanted:
        raise InvalidArgument(
            f"io has a terminal and the spec of container {container_id!r} none; create it with "
            f"spec_opts=[oci.with_tty()]"
        )


def unpack_runtime_options(packed: AnyMessage) -> RuncOptions | Any:
    """Return packed options of a runtime; see `ContainerInfo.runtime_options`."""
    from containerd_aio.api.containerd.runc.v1 import Options

    options = typeurl.unpack(packed)
    return RuncOptions.from_raw(options) if isinstance(options, Options) else options


def merged_options(info: ContainerInfo, options: RuncOptions | None) -> AnyMessage | None:
    """Return the options to send with the request: those of the task over those of the container.

    Without any for the task none are sent, and the daemon takes the container's (Go: client.NewTask since 2.1).

    Raises:
        InvalidArgument: The container has options of another kind.
    """
    if options is None:
        return None
    own = info.runtime_options
    if own is not None and not isinstance(own, RuncOptions):
        raise InvalidArgument(
            f"container {info.id!r} has runtime options of another kind ({type(own).__name__}): those of runc can't be "
            f"put over them"
        )
    return typeurl.pack((own.merge(options) if own is not None else options).raw)


def with_mount_label(mounts: Sequence[Mount], spec: Any) -> Sequence[Mount]:
    """Return `mounts` with the SELinux label that the spec wants for them (``linux.mountLabel``)."""
    label = (spec.get("linux") or {}).get("mountLabel")
    if not label:
        return mounts
    return [replace(mount, options=(*mount.options, f'context="{label}"')) for mount in mounts]


async def _criu_archive(scope: Scope, checkpoint: Image | Descriptor | None) -> Descriptor | None:
    if not isinstance(checkpoint, Image):
        return checkpoint
    from containerd_aio.checkpoint import CRIU_ARCHIVE, find_entry, read_index

    index = await read_index(scope.services, checkpoint.target)
    found = find_entry(index, CRIU_ARCHIVE)
    if found is None:
        raise NotFound(
            f"image {checkpoint.name!r} has no state of processes: it was not made by a checkpoint of a task"
        )
    return found
