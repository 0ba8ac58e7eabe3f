"""libcontainerd's client: what a daemon does with its containers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import stdio, typeurl
from containerd_aio._identifiers import check_identifier
from containerd_aio._log import get_logger
from containerd_aio._signals import parse_signal
from containerd_aio.api.containerd.services.tasks.v1 import (
    KillRequest,
    ListPidsRequest,
    MetricsRequest,
    ResizePtyRequest,
    UpdateTaskRequest,
)
from containerd_aio.errors import AlreadyExists, ContainerdError, NotFound
from containerd_aio.libcontainerd._checkpoints import CheckpointDirectory
from containerd_aio.libcontainerd._container import KnownContainer, KnownProcess
from containerd_aio.libcontainerd._restore import restore
from containerd_aio.libcontainerd.backend import Backend, StdioCallback, StreamBackend
from containerd_aio.libcontainerd.iopipe import AttachedIO
from containerd_aio.libcontainerd.options import CreateParameters
from containerd_aio.libcontainerd.states import INIT_FRIENDLY_NAME, STATE_PAUSE, STATE_RESUME
from containerd_aio.libcontainerd.types import Checkpoints, Resources, ServerVersion, Stats, Summary
from containerd_aio.oci import LinuxResources, to_json

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from containerd_aio import Task
    from containerd_aio.libcontainerd._keeper import Keeper
    from containerd_aio.libcontainerd.options import CreateOption
    from containerd_aio.libcontainerd.types import Process
    from containerd_aio.oci import Spec

# Seconds for undoing something after a failure or a cancellation.
_UNDO_TIMEOUT = 30.0

_log = get_logger(__name__)


class Client:
    """The containers of one backend; made by `Remote.client`.

    What is done to one container is done one after the other. A container is known from `create` or `restore` until its
    exit; calls say for themselves whether they need that. Ids are those of containerd: letters and digits, with single
    ``.``, ``_`` or ``-`` between them.
    """

    def __init__(self, keeper: Keeper, backend: Backend, *, confirm_timeout: float) -> None:
        self._keeper = keeper
        self._backend = backend
        self._confirm_timeout = confirm_timeout

    @property
    def containers(self) -> list[str]:
        """Ids of the containers that are known."""
        return list(self._keeper.containers)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def create(
        self,
        container_id: str,
        spec: Spec,
        *options: CreateOption,
        attach_stdio: StdioCallback | None = None,
        checkpoint: str = "",
        checkpoint_dir: str | os.PathLike[str] = "",
    ) -> None:
        """Create a container and start it. The backend has taken ``start-container`` when this returns.

        What it is still to be told of an earlier container of that id is told before, unless this is called from there. A
        container of that id that is waiting for its restart is superseded; the remains of one that nobody knows are removed.
        Whatever fails, or if the call is cancelled, nothing of the new container is left.

        Args:
            container_id: Its id.
            spec: Its OCI spec; ``root.path`` is the directory with its root filesystem, or see `with_snapshot`.
            options: See `with_runtime`, `with_restart_manager`, `with_snapshot`.
            attach_stdio: Takes its standard streams, before its process exists, and again at every restart. Without it the
                backend's ``attach_streams`` does; without that, it has none.
            checkpoint: Name of a checkpoint to continue from.
            checkpoint_dir: Directory of the checkpoint; see `create_checkpoint`.

        Raises:
            AlreadyExists: It is active.
            InvalidArgument: The id or the spec is not valid.
            NotFound: There is no such checkpoint.
            Unknown: The runtime refused; the text is runc's.
            FailedPrecondition: It is called by the backend's own handling of the container's start.
            Closed: The remote was left meanwhile.
            Exception: Whatever the backend raised when it was told of the start, or `attach_stdio`; a RuntimeError when
                the backend cancelled itself.
        """
        check_identifier(container_id, "container id")
        image = self._checkpoints(container_id, checkpoint_dir).image(checkpoint) if checkpoint else ""
        container = self._container(container_id, options, attach_stdio)
        await self._keeper.create(container, spec, checkpoint=image)

    async def restore(
        self, container_id: str, *options: CreateOption, attach_stdio: StdioCallback | None = None
    ) -> None:
        """Find a container again that an earlier `Remote` of the same directory has created.

        The backend has been told when this returns:

        * It runs, and live restore is on: ``restore``, and ``pause`` if it is paused. What the backend raises is logged,
          and the container is not known then.
        * It runs, and live restore is off: it is ended (SIGTERM, after ten seconds SIGKILL): ``exit``.
        * It has ended: ``exit`` with its code; if nobody knows that any more, or there never was such a container, the code
          is 255 and `StateInfo.unknown` is set. It is not restarted, whatever its restart manager says.

        Args:
            container_id: Its id.
            options: As for `create`.
            attach_stdio: As for `create`; output that was written meanwhile is not lost while it fits into the pipe.

        Raises:
            AlreadyExists: It is known already.
            Unavailable: containerd can't be reached, or can't tell its state.
            Closed: The remote was left before the backend had taken it; it will be told the next time.
        """
        check_identifier(container_id, "container id")
        await restore(self._keeper, self._container(container_id, options, attach_stdio))

    def _container(
        self, container_id: str, options: tuple[CreateOption, ...], attach_stdio: StdioCallback | None
    ) -> KnownContainer:
        parameters = CreateParameters()
        for option in options:
            try:
                option.apply(parameters)
            except Exception as exc:  # noqa: BLE001 - "a failing option is logged, not fatal" is libcontainerd's rule
                _log.error(
                    "create option failed", container_id=container_id, option=repr(option), error=repr(exc)
                )
        return KnownContainer(container_id, parameters, self._attach(container_id, attach_stdio))

    def _attach(self, process_name: str, attach_stdio: StdioCallback | None) -> StdioCallback | None:
        if attach_stdio is not None:
            return attach_stdio
        backend = self._backend
        if isinstance(backend, StreamBackend):
            return lambda pipe: backend.attach_streams(process_name, pipe)
        return None

    # --- processes ----------------------------------------------------------------------------------------------------

    async def signal(self, container_id: str, sig: int | str) -> None:
        """Send a signal to the init process; the container need not be known.

        Init ignores signals that it has no handler for, but for SIGKILL.

        Raises:
            InvalidArgument: There is no such signal.
            NotFound: There is no such container, or its process has ended.
        """
        await self.signal_process(container_id, INIT_FRIENDLY_NAME, sig)

    async def signal_process(self, container_id: str, process_name: str, sig: int | str) -> None:
        """Send a signal to a process of a container, which need not be known.

        Raises:
            InvalidArgument: There is no such signal.
            NotFound: There is no such container or process, or it has ended.
        """
        number = parse_signal(sig)
        async with self._locked(container_id):
            known = self._process(container_id, process_name)
            if known is not None:
                await known.handle.kill(number)
                return
            request = KillRequest(
                container_id=container_id, exec_id=_exec_id(process_name), signal=number, all=False
            )
            await self._services.tasks.kill(request)

    async def add_process(
        self,
        container_id: str,
        process_name: str,
        process: Process,
        *,
        attach_stdio: StdioCallback | None = None,
    ) -> int:
        """Start another process in a container that is known.

        Args:
            container_id: Id of the container.
            process_name: Its name, unique among the processes of the container that run.
            process: What to run.
            attach_stdio: Takes its standard streams, once it runs; as for `create`. If it raises, they are closed and the
                process goes on.

        Returns:
            Its host pid.

        Raises:
            NotFound: The container is not known.
            AlreadyExists: It has a process of that name.
            InvalidArgument: The name or the command is not valid.
            Unknown: The runtime could not start it; the text is runc's. The backend is told nothing.
        """
        check_identifier(process_name, "process name")
        async with self._locked(container_id):
            container, task = self._active(container_id)
            if process_name in container.processes or process_name == INIT_FRIENDLY_NAME:
                raise AlreadyExists(f"container {container_id!r} has a process {process_name!r}")
            spec = await (await self._keeper.core.containerd.container(container_id)).spec()
            base: Any = spec.get("process") or {}
            oci = process.to_oci(base)
            give = self._attach(process_name, attach_stdio)
            io = AttachedIO(process.terminal) if give is not None else None
            creator = io or (stdio.streams(terminal=True) if process.terminal else stdio.null())
            try:
                handle = await task.exec(process_name, oci, io=creator)
            except BaseException:
                if io is not None:
                    io.close()
                raise
            known = KnownProcess(handle, " ".join(process.args), io)
            container.processes[process_name] = known
            try:
                await handle.start()
            except BaseException:
                container.processes.pop(process_name, None)
                with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
                    await _give_up(known)
                raise
            if io is not None and give is not None:
                await io.hand_over(give)
            return handle.pid or 0

    async def resize(self, container_id: str, process_name: str, width: int, height: int) -> None:
        """Set the size of the terminal of a process, in cells, in a container that is known; a 0 is ignored.

        Raises:
            NotFound: The container is not known, or has no such process.
        """
        async with self._locked(container_id):
            self._keeper.known(container_id)
            if width and height:
                request = ResizePtyRequest(
                    container_id=container_id, exec_id=_exec_id(process_name), width=width, height=height
                )
                await self._services.tasks.resize_pty(request)

    async def pause(self, container_id: str) -> None:
        """Freeze the processes of a container that is known.

        Returns once the backend was told ``pause``, or the container has ended, or some seconds have passed (see
        `Remote.client`); and at once when called by the backend's handling of another change of that container.

        Raises:
            NotFound: The container is not known.
            Unknown: It can't be paused; the text is the runtime's.
        """
        await self._freeze(container_id, STATE_PAUSE)

    async def resume(self, container_id: str) -> None:
        """Thaw the processes of a container that is known; see `pause`.

        Raises:
            NotFound: The container is not known.
            Unknown: It is not paused; the text is the runtime's.
        """
        await self._freeze(container_id, STATE_RESUME)

    async def _freeze(self, container_id: str, state: str) -> None:
        async with self._locked(container_id):
            container, task = self._active(container_id)
            told = container.expect(state)
            try:
                await (task.pause() if state == STATE_PAUSE else task.resume())
            except BaseException:
                container.expect_no_more(state, told)
                raise
        if self._keeper.delivery.inside(container_id):
            return
        with anyio.move_on_after(self._confirm_timeout) as scope:
            await told.wait()
        if scope.cancelled_caught:
            container.expect_no_more(state, told)
            _log.warning("backend not told in time", container_id=container_id, state=state)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def stats(self, container_id: str) -> Stats:
        """Measure what a container uses, which need not be known.

        Raises:
            InvalidArgument: The id is not valid.
            NotFound: It has no task.
        """
        check_identifier(container_id, "container id")
        reply = await self._services.tasks.metrics(MetricsRequest(filters=[f"id=={container_id}"]))
        for metric in reply.metrics:
            if metric.id == container_id and metric.data is not None:
                return Stats.from_raw(metric.timestamp, typeurl.unpack(metric.data))
        raise NotFound(f"there are no metrics of container {container_id!r}: it has no task")

    async def get_pids_for_container(self, container_id: str) -> list[int]:
        """Return the host pids of all processes of a container, which need not be known.

        Raises:
            InvalidArgument: The id is not valid.
            NotFound: It has no task.
        """
        check_identifier(container_id, "container id")
        reply = await self._services.tasks.list_pids(ListPidsRequest(container_id=container_id))
        return [process.pid for process in reply.processes]

    async def summary(self, container_id: str) -> list[Summary]:
        """Return the processes that were started through this client, init first; none for a container not known.

        That is what it did on Windows; on Linux it returned nothing.
        """
        container = self._keeper.containers.get(container_id)
        known = list(container.processes.values()) if container is not None else []
        return [Summary(process.handle.pid or 0, process.command) for process in known]

    async def get_server_version(self) -> ServerVersion:
        """Ask containerd for its version."""
        version = await self._keeper.core.containerd.version()
        return ServerVersion.parse(version.version, version.revision)

    # --- changing -----------------------------------------------------------------------------------------------------

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        """Change limits of a container that is known. They are those of this run: the spec stays as it is.

        Raises:
            NotFound: The container is not known.
            Unknown: The kernel refused; the text is runc's.
        """
        async with self._locked(container_id):
            self._active(container_id)
            packed = typeurl.pack(to_json(resources.to_oci(), kind=LinuxResources), typeurl.LINUX_RESOURCES)
            await self._services.tasks.update(UpdateTaskRequest(container_id=container_id, resources=packed))

    # --- checkpoints --------------------------------------------------------------------------------------------------

    async def create_checkpoint(
        self,
        container_id: str,
        checkpoint_id: str,
        checkpoint_dir: str | os.PathLike[str] = "",
        *,
        exit: bool = False,  # noqa: A002 - libcontainerd's word
    ) -> None:
        """Save the state of a container that is known; CRIU must be on containerd's ``PATH``.

        Established TCP connections and Unix sockets are saved with it, its network namespace is not.

        Args:
            container_id: Id of the container.
            checkpoint_id: Name of the checkpoint.
            checkpoint_dir: Directory for it, absolute, on containerd's host; one below that of the `Remote` by default.
            exit: Stop the container afterwards.

        Raises:
            NotFound: The container is not known.
            AlreadyExists: There is a checkpoint of that name.
            InvalidArgument: The name or the directory can't be used.
            Unknown: CRIU could not do it; the text is runc's.
        """
        directory = self._checkpoints(container_id, checkpoint_dir)
        async with self._locked(container_id):
            _, task = self._active(container_id)
            await directory.create(task, self._services, checkpoint_id, leave=exit)

    async def delete_checkpoint(
        self, container_id: str, checkpoint_id: str, checkpoint_dir: str | os.PathLike[str] = ""
    ) -> None:
        """Remove a checkpoint. Docker wanted the container to be known; here it need not be.

        Raises:
            NotFound: There is no such checkpoint.
        """
        directory = self._checkpoints(container_id, checkpoint_dir)
        async with self._locked(container_id):
            await directory.delete(checkpoint_id)

    async def list_checkpoints(
        self, container_id: str, checkpoint_dir: str | os.PathLike[str] = ""
    ) -> Checkpoints:
        """Return the checkpoints of a container. Docker wanted it to be known; here it need not be."""
        directory = self._checkpoints(container_id, checkpoint_dir)
        async with self._locked(container_id):
            return directory.list()

    def _checkpoints(self, container_id: str, directory: str | os.PathLike[str]) -> CheckpointDirectory:
        default = self._keeper.core.bundles.directory(container_id) / "checkpoints"
        return CheckpointDirectory(Path(directory) if directory else default)

    # --- small things -------------------------------------------------------------------------------------------------

    @property
    def _services(self) -> Any:
        return self._keeper.core.containerd.services

    @asynccontextmanager
    async def _locked(self, container_id: str) -> AsyncIterator[None]:
        check_identifier(container_id, "container id")
        self._keeper.check_lock(container_id)
        async with self._keeper.locks(container_id):
            yield

    def _process(self, container_id: str, process_name: str) -> KnownProcess | None:
        container = self._keeper.containers.get(container_id)
        return container.processes.get(process_name) if container is not None else None

    def _active(self, container_id: str) -> tuple[KnownContainer, Task]:
        container = self._keeper.known(container_id)
        if container.task is None:
            raise NotFound(f"no active process for container {container_id!r}")
        return container, container.task


def _exec_id(process_name: str) -> str:
    return "" if process_name == INIT_FRIENDLY_NAME else process_name


async def _give_up(known: KnownProcess) -> None:
    """Remove an exec whose start failed or was given up."""
    if known.io is not None:
        known.io.close()
    try:
        await known.handle.delete(kill=True)
    except ContainerdError as exc:
        _log.debug("process not removed", process=known.handle.id, error=str(exc))
    finally:
        await known.handle.aclose()
