"""Finding a container again after a restart of ours: kept, ended, or what is told when it is gone."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import stdio
from containerd_aio._log import get_logger
from containerd_aio.errors import Closed, ContainerdError, NotFound
from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS
from containerd_aio.events.records import Phase
from containerd_aio.libcontainerd.iopipe import AttachedIO
from containerd_aio.libcontainerd.states import STATE_EXIT, STATE_PAUSE, STATE_RESTORE, StateInfo

if TYPE_CHECKING:
    from containerd_aio import Container, Task
    from containerd_aio.libcontainerd._container import KnownContainer
    from containerd_aio.libcontainerd._delivery import Callback
    from containerd_aio.libcontainerd._keeper import Keeper

# Seconds between SIGTERM and SIGKILL, and from there until the exit is told as unknown.
TERM_TIMEOUT = 10.0
KILL_TIMEOUT = 2.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """What containerd has of a container.

    Attributes:
        record: The container.
        spec: Its spec.
        task: Its task; None when it has none.
    """

    record: Container
    spec: Any
    task: Task | None


async def restore(keeper: Keeper, container: KnownContainer) -> None:
    """Find a container again; the backend has been told when this returns."""
    keeper.check_lock(container.id)
    await keeper.delivery.drain(container.id)
    told: Callback | None = None
    async with keeper.locks(container.id):
        keeper.check_unknown(container.id)
        keeper.containers[container.id] = container  # before anything is asked: its exit may come meanwhile
        try:
            found = await _find(keeper, container.id)
            if found is None or found.task is None or not _runs(found.task):
                told = await _dead(keeper, container, found.task if found is not None else None)
            elif keeper.core.live_restore:
                await _keep(keeper, container, found, found.task)
            else:
                await _begin_quietly(keeper, container, found)
        except BaseException:
            if keeper.containers.get(container.id) is container:
                del keeper.containers[container.id]
            raise
    if container.quiet:
        told = await _end(keeper, container)
    if told is not None and not keeper.delivery.inside(container.id):
        await told.ended.wait()
        if isinstance(told.error, Closed):
            raise told.error


async def _find(keeper: Keeper, container_id: str) -> _Found | None:
    try:
        record = await keeper.core.containerd.container(container_id)
        spec = await record.spec()
    except NotFound:
        return None
    try:
        return _Found(record, spec, await record.task())
    except NotFound:
        return _Found(record, spec, None)


def _runs(task: Task) -> bool:
    incarnation = task.incarnation
    return incarnation.open and incarnation.phase is not Phase.CREATED


async def _dead(keeper: Keeper, container: KnownContainer, task: Task | None) -> Callback:
    """Have the backend told how it ended, as far as anybody knows."""
    info = keeper.core.bundles.recorded_exit(container.id)
    if task is not None and task.incarnation.open:
        await task.delete(kill=True)  # made and never started: whoever was to start it has gone
        task, info = None, None
    elif task is not None:
        status = await task.wait()
        info = StateInfo(
            state=STATE_EXIT,
            pid=status.pid,
            exit_code=status.code,
            oom_killed=status.oom_killed,
            unknown=status.unknown,
        )
    container.task = task
    return keeper.exited(container, info or _unknown_exit(), final=True)


async def _keep(keeper: Keeper, container: KnownContainer, found: _Found, task: Task) -> None:
    """Tell that it runs, and whether it is paused, and go on from there."""
    io = None
    if container.attach_stdio is not None:
        terminal = bool((found.spec.get("process") or {}).get("terminal"))
        io = AttachedIO(terminal, container.attach_stdio)
        try:
            task = await found.record.task(io=io)
        except NotFound as exc:
            _log.warning("standard streams are lost", container_id=container.id, error=str(exc))
            io = None
    container.begin(task, io, found.spec)
    container.began = anyio.current_time()
    await keeper.core.changes.drain(container.id)  # what is known of it so far is held by the container now
    paused = _was_paused(container, task)
    try:
        await keeper.delivery.tell(container.id, StateInfo(state=STATE_RESTORE, pid=task.pid or 0))
    except Exception:  # noqa: BLE001 - it is the backend's; libcontainerd logs it and succeeds
        _log.exception("restored container is let go of", container_id=container.id)
        del keeper.containers[container.id]
        if io is not None:
            io.close()
        return
    if paused:
        container.paused = True
        keeper.submit(container, StateInfo(state=STATE_PAUSE, pid=task.pid or 0))
    keeper.release(container)


def _was_paused(container: KnownContainer, task: Task) -> bool:
    """Return whether it was paused before the changes that are held."""
    states = [change.state for change in container.held or () if change.incarnation == container.life]
    first = next((state for state in states if state in {"pause", "resume"}), None)
    return first == "resume" if first is not None else task.incarnation.phase is Phase.PAUSED


async def _begin_quietly(keeper: Keeper, container: KnownContainer, found: _Found) -> None:
    """Watch a container that is to end; its output is read and thrown away, so that it is not stopped by it."""
    task = found.task
    with suppress(NotFound):  # nothing reads its output already
        task = await found.record.task(io=stdio.streams())
    assert task is not None
    container.quiet = True
    container.begin(task, None, found.spec)
    await keeper.core.changes.drain(container.id)
    keeper.release(container)


async def _end(keeper: Keeper, container: KnownContainer) -> Callback:
    """End a container: SIGTERM, SIGKILL, and if nothing is heard of its exit, the backend is told of one."""
    task = container.task
    assert task is not None
    await _signal(task, signal.SIGTERM)
    if task.incarnation.phase is Phase.PAUSED:
        with suppress(ContainerdError):  # a process that is frozen takes no signal
            await task.resume()
    with anyio.move_on_after(TERM_TIMEOUT):
        await container.gone.wait()
    if not container.gone.is_set():
        await _signal(task, signal.SIGKILL)
        with anyio.move_on_after(KILL_TIMEOUT):
            await container.gone.wait()
    if not container.gone.is_set():
        keeper.exited(container, _unknown_exit())
    assert container.exit_callback is not None
    return container.exit_callback


async def _signal(task: Task, signum: signal.Signals) -> None:
    try:
        await task.kill(signum)
    except ContainerdError as exc:
        _log.debug("signal not sent", container_id=task.container_id, signal=signum.name, error=str(exc))


def _unknown_exit() -> StateInfo:
    return StateInfo(state=STATE_EXIT, exit_code=UNKNOWN_EXIT_STATUS, unknown=True)
