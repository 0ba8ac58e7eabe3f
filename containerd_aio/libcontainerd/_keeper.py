"""The lives of the containers of one client: made, started, watched, restarted, cleared away."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import stdio
from containerd_aio._locks import KeyedLock
from containerd_aio._log import get_logger
from containerd_aio.api.containerd.services.tasks.v1 import DeleteProcessRequest
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Unavailable,
)
from containerd_aio.libcontainerd._delivery import Callback
from containerd_aio.libcontainerd.iopipe import AttachedIO
from containerd_aio.libcontainerd.restart_manager import RestartCanceled
from containerd_aio.libcontainerd.states import (
    STATE_EXIT,
    STATE_EXIT_PROCESS,
    STATE_OOM,
    STATE_PAUSE,
    STATE_RESTART,
    STATE_RESUME,
    STATE_START,
    STATE_START_PROCESS,
    StateInfo,
)
from containerd_aio.oci import RuncOptions

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from containerd_aio import Client, Container, Task
    from containerd_aio.events.callbacks import StateChanges
    from containerd_aio.events.states import StateChange
    from containerd_aio.libcontainerd._bundles import Bundles
    from containerd_aio.libcontainerd._container import KnownContainer
    from containerd_aio.libcontainerd._delivery import Delivery
    from containerd_aio.libcontainerd.restart_manager import RestartWait
    from containerd_aio.stdio import IOCreator

# So many containers that have ended are remembered, for OOM reports that come after the exit.
_REMEMBER = 1024
# Seconds for undoing something after a failure or a cancellation.
_UNDO_TIMEOUT = 30.0

_log = get_logger(__name__)


@dataclass(eq=False)
class Core:
    """What the clients of one `Remote` share.

    Attributes:
        containerd: The connection.
        changes: What tells of changes.
        task_group: Where background work runs.
        bundles: Files that outlive us.
        live_restore: Whether a container that runs is kept by `Client.restore`.
        runtime: Name and options of the runtime of a container that names none.
    """

    containerd: Client
    changes: StateChanges
    task_group: TaskGroup
    bundles: Bundles
    live_restore: bool = False
    runtime: tuple[str, RuncOptions | None] = ("", None)


class Keeper:
    """The containers that one client has created or restored, and whose exit was not seen.

    Args:
        core: What it shares with others.
        delivery: How the backend is told.
        start_process: Whether it is told of ``start-process``.
    """

    def __init__(self, core: Core, delivery: Delivery, *, start_process: bool) -> None:
        self.core = core
        self.delivery = delivery
        self.locks = KeyedLock()
        self.containers: dict[str, KnownContainer] = {}
        self._start_process = start_process
        self._restarting: dict[str, tuple[KnownContainer, StateInfo]] = {}
        self._ended: OrderedDict[tuple[str, int], None] = OrderedDict()

    # --- changes that containerd tells of -----------------------------------------------------------------------------

    def take(self, change: StateChange) -> bool:
        """Take a change; return False when it is about no container known here."""
        container = self.containers.get(change.container_id)
        if container is None:
            return self._take_late(change)
        if container.held is not None:
            container.held.append(change)
        elif change.incarnation == container.life:
            self._tell(container, change)
        return True

    def _take_late(self, change: StateChange) -> bool:
        if (change.container_id, change.incarnation) not in self._ended:
            return False
        if change.state == "oom":
            self.delivery.submit(Callback(change.container_id, StateInfo(state=STATE_OOM, pid=change.pid)))
        return True

    def release(self, container: KnownContainer) -> None:
        """Tell what was held back until the backend knew of the start."""
        held, container.held = container.held or [], None
        for change in held:
            if self.containers.get(container.id) is container and change.incarnation == container.life:
                self._tell(container, change)

    def _tell(self, container: KnownContainer, change: StateChange) -> None:
        match change.state:
            case "exit":
                self._exited(container, change)
            case "exit-process":
                self._exec_exited(container, change)
            case "oom":
                container.oom_killed = True
                self.submit(container, StateInfo(state=STATE_OOM, pid=change.pid))
            case "pause" | "resume" if container.paused != (change.state == "pause"):
                container.paused = change.state == "pause"
                state = STATE_PAUSE if container.paused else STATE_RESUME
                self.submit(container, StateInfo(state=state, pid=change.pid))
            case "start-process" if self._start_process:
                process = StateInfo(state=STATE_START_PROCESS, pid=change.pid, process_id=change.process_id)
                self.submit(container, process)
            case _:
                pass  # who started or restored it tells of that

    def submit(self, container: KnownContainer, info: StateInfo) -> None:
        """Have the backend told, and then those who wait for it."""
        if container.quiet:
            return

        async def finish() -> None:
            container.told(info.state)

        self.delivery.submit(Callback(container.id, info, finish=finish))

    def _exec_exited(self, container: KnownContainer, change: StateChange) -> None:
        known = container.processes.pop(change.process_id, None)
        if known is not None and known.io is not None:
            known.io.exited()
        if container.quiet:
            return
        status = change.exit_status
        info = StateInfo(
            state=STATE_EXIT_PROCESS,
            pid=change.pid,
            exit_code=status.code if status else 0,
            process_id=change.process_id,
            oom_killed=container.oom_killed,
            unknown=status.unknown if status else False,
        )

        async def prepare() -> None:
            async with self.locks(container.id):
                pass  # whoever adds it has had its streams taken

        async def finish() -> None:
            with suppress(ContainerdError):  # the container may be gone as well
                if known is not None:
                    await known.handle.delete()
                else:
                    await self.core.containerd.services.tasks.delete_process(
                        DeleteProcessRequest(container_id=container.id, exec_id=change.process_id)
                    )

        self.delivery.submit(Callback(container.id, info, prepare=prepare, finish=finish))

    # --- exits --------------------------------------------------------------------------------------------------------

    def _exited(self, container: KnownContainer, change: StateChange) -> None:
        status = change.exit_status
        assert status is not None
        self._remember(change)
        self.exited(
            container,
            StateInfo(
                state=STATE_EXIT,
                pid=change.pid,
                exit_code=status.code,
                oom_killed=status.oom_killed or container.oom_killed,
                unknown=status.unknown,
            ),
        )

    def exited(self, container: KnownContainer, info: StateInfo, *, final: bool = False) -> Callback:
        """Take it that a container has ended, and have the backend told; a `final` end is not followed by a restart."""
        self.containers.pop(container.id, None)
        container.end()
        wait = None if final or container.quiet else _ask(container, info)
        settle = partial(self._settle, container, info)
        if wait is None:
            callback = Callback(
                container.id, info, prepare=settle, finish=partial(self._forget, container.id)
            )
        else:
            callback = Callback(container.id, replace(info, state=STATE_RESTART), prepare=settle)
            self._restarting[container.id] = container, info
            self.core.task_group.start_soon(self._restart, container, wait)
        container.exit_callback = callback
        self.delivery.submit(callback)
        container.gone.set()
        return callback

    def _remember(self, change: StateChange) -> None:
        self._ended[change.container_id, change.incarnation] = None
        if len(self._ended) > _REMEMBER:
            self._ended.popitem(last=False)

    async def _settle(self, container: KnownContainer, info: StateInfo) -> None:
        """Write the exit down and delete the task: after this, nothing of it can run or is mounted."""
        async with self.locks(container.id):
            try:
                self.core.bundles.record_exit(container.id, info)
            except OSError as exc:
                _log.warning("an exit can't be written down", container_id=container.id, error=str(exc))
            if container.task is not None:
                await _delete_task(container.task)

    async def _forget(self, container_id: str) -> None:
        """Remove the record of a container whose exit was told, unless it is there again."""
        while True:
            async with self.locks(container_id):
                if container_id in self.containers or container_id in self._restarting:
                    return
                try:
                    await self._remove_stale(container_id)
                except (Unavailable, DeadlineExceeded):
                    pass  # once more when containerd is there; whoever waits for this has a limit
                except ContainerdError as exc:
                    _log.warning("container record not removed", container_id=container_id, error=str(exc))
                    return
                else:
                    self.core.bundles.remove(container_id)
                    return
            await self.core.containerd.wait_ready()

    # --- restarts -----------------------------------------------------------------------------------------------------

    async def _restart(self, container: KnownContainer, wait: RestartWait) -> None:
        """Wait, and start the container again; if that is not to be, its exit is told."""
        while True:
            try:
                await self._try_restart(container, wait)
            except (Unavailable, DeadlineExceeded) as exc:
                _log.warning("restart put off", container_id=container.id, error=str(exc))
                with suppress(ContainerdError):
                    await self.core.containerd.wait_ready()
            except Exception as exc:  # noqa: BLE001 - the backend may raise anything; so may an attach callback
                if not isinstance(exc, RestartCanceled):
                    _log.warning("restart failed", container_id=container.id, error=repr(exc))
                if self._is_restarting(container):  # and was not superseded
                    del self._restarting[container.id]
                    self._submit_exit(container)
                return
            else:
                return

    async def _try_restart(self, container: KnownContainer, wait: RestartWait) -> None:
        await wait.wait()
        await self.delivery.drain(container.id)
        async with self.locks(container.id):
            if not self._is_restarting(container):
                return
            await wait.wait()  # once more: it may have been cancelled meanwhile
            await self._run_again(container)

    def _is_restarting(self, container: KnownContainer) -> bool:
        return self._restarting.get(container.id, (None,))[0] is container

    async def _run_again(self, container: KnownContainer) -> None:
        del self._restarting[container.id]
        self.containers[container.id] = container
        container.prepare_life()
        try:
            record = await self.core.containerd.container(container.id)
            # The last one, or that of an attempt to start, may be there still if containerd was away meanwhile.
            with suppress(NotFound):
                await (await record.task()).delete(kill=True)
            await self.run(container, record)
        except BaseException:
            if self.containers.get(container.id) is container:
                del self.containers[container.id]
            self._restarting[container.id] = container, _last(container)
            raise

    def _submit_exit(self, container: KnownContainer) -> None:
        finish = partial(self._forget, container.id)
        self.delivery.submit(Callback(container.id, _last(container), finish=finish))

    async def supersede(self, container_id: str) -> None:
        """End the wait of a container for its restart: another one is made in its place."""
        container, info = self._restarting.pop(container_id, (None, None))
        if container is None or info is None:
            return
        assert container.parameters.restart_manager is not None
        container.parameters.restart_manager.cancel()
        if not self.delivery.inside(container_id):
            self._submit_exit(container)
            return
        try:
            await self.delivery.tell(container_id, info)
        except Exception:  # noqa: BLE001 - it is the backend's
            _log.exception("handler failed", container_id=container_id, state=info.state)

    # --- starts -------------------------------------------------------------------------------------------------------

    async def create(self, container: KnownContainer, spec: Any, *, checkpoint: str = "") -> None:
        """Make a container and start it; the backend has taken its start when this returns."""
        self.check_lock(container.id)
        await self.supersede(container.id)
        await self.delivery.drain(container.id)
        async with self.locks(container.id):
            self.check_unknown(container.id)
            self.containers[container.id] = container
            record = None
            try:
                record = await self._make_record(container, spec)
                await self.run(container, record, checkpoint=checkpoint)
            except BaseException:
                if self.containers.get(container.id) is container:
                    del self.containers[container.id]
                with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
                    if record is not None:
                        await _delete_record(record)
                raise

    async def _make_record(self, container: KnownContainer, spec: Any) -> Container:
        parameters = container.parameters
        runtime, runtime_options = parameters.runtime, parameters.runtime_options
        if not runtime and runtime_options is None:
            runtime, runtime_options = self.core.runtime
        make = partial(
            self.core.containerd.new_container,
            container.id,
            spec=spec,
            runtime=runtime or None,
            runtime_options=runtime_options,
            snapshot=parameters.snapshot or None,
            snapshotter=parameters.snapshotter or None,
        )
        try:
            return await make()
        except AlreadyExists:
            await self._remove_stale(container.id)
            return await make()

    async def _remove_stale(self, container_id: str) -> None:
        """Remove the remains of a container that nobody knows any more, unless it runs."""
        with suppress(NotFound):
            record = await self.core.containerd.container(container_id)
            with suppress(NotFound):
                task = await record.task()
                if await task.status() in {"running", "paused", "pausing"}:
                    raise AlreadyExists(
                        f"container {container_id!r} runs in containerd and is not known here; restore it first"
                    )
                await task.delete(kill=True)
            await record.delete(snapshot=False)

    async def run(self, container: KnownContainer, record: Container, *, checkpoint: str = "") -> None:
        """Start a container whose record is there, and tell the backend; it must be locked and registered."""
        spec: Any = await record.spec()
        terminal = bool((spec.get("process") or {}).get("terminal"))
        io = AttachedIO(terminal, container.attach_stdio) if container.attach_stdio is not None else None
        self.core.bundles.forget_exit(container.id)
        try:
            task = await _new_task(record, io or _nowhere(terminal=terminal), checkpoint)
            container.begin(task, io, spec)
            try:
                await task.start()
                container.began = anyio.current_time()
                await self.delivery.tell(container.id, StateInfo(state=STATE_START, pid=task.pid or 0))
            except BaseException:
                with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
                    await _delete_task(task, kill=True)
                raise
        except BaseException:
            if io is not None:
                io.exited()
            raise
        self.release(container)

    # --- small things -------------------------------------------------------------------------------------------------

    async def finish_calls(self) -> None:
        """Return when no call is in the middle of something, or it takes too long."""
        with anyio.move_on_after(_UNDO_TIMEOUT):
            await self.locks.idle()

    def known(self, container_id: str) -> KnownContainer:
        """Return a container.

        Raises:
            NotFound: It was not created or restored here, or has ended.
        """
        container = self.containers.get(container_id)
        if container is None:
            raise NotFound(f"invalid container: {container_id!r} was not created or restored, or has ended")
        return container

    def check_unknown(self, container_id: str) -> None:
        """Refuse what can't be done to a container that is known.

        Raises:
            AlreadyExists: It is.
        """
        if container_id in self.containers or container_id in self._restarting:
            raise AlreadyExists(f"container {container_id!r} is already active")

    def check_lock(self, container_id: str) -> None:
        """Refuse what would wait for ever.

        Raises:
            FailedPrecondition: The caller is the callback of a start, which keeps the container locked.
        """
        if self.delivery.locked_inside(container_id):
            raise FailedPrecondition(
                f"container {container_id!r} is locked until state_changed has returned; do this after it"
            )


def _ask(container: KnownContainer, info: StateInfo) -> RestartWait | None:
    """Ask the restart manager about an exit."""
    manager = container.parameters.restart_manager
    if manager is None:
        return None
    ran = anyio.current_time() - container.began
    try:
        return manager.should_restart(info.exit_code, run_duration=ran)
    except ContainerdError as exc:
        _log.info("not restarted", container_id=container.id, reason=str(exc))
        return None


def _last(container: KnownContainer) -> StateInfo:
    """Return the exit of a container that was waiting for its restart."""
    assert container.exit_callback is not None
    return replace(container.exit_callback.state, state=STATE_EXIT)


def _nowhere(*, terminal: bool) -> IOCreator:
    return stdio.streams(terminal=True) if terminal else stdio.null()


async def _new_task(record: Container, io: IOCreator, checkpoint: str) -> Task:
    options = RuncOptions(criu_image_path=checkpoint) if checkpoint else None
    return await record.new_task(io=io, options=options)


async def _delete_task(task: Task, *, kill: bool = False) -> None:
    try:
        await task.delete(kill=kill)
    except ContainerdError as exc:
        _log.warning("task not deleted", container_id=task.container_id, error=str(exc))
    finally:
        await task.aclose()


async def _delete_record(record: Container) -> None:
    try:
        await record.delete(snapshot=False)
    except NotFound:
        pass
    except ContainerdError as exc:
        _log.warning("container record not removed", container_id=record.id, error=str(exc))
