"""The driver: Docker's execdriver of 1.4 on a containerd of today."""

from __future__ import annotations

import inspect
import os
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from containerd_aio._log import get_logger
from containerd_aio._version import __version__
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unknown,
)
from containerd_aio.execdriver.errors import NotRunning, WaitTimeoutReached
from containerd_aio.execdriver.network import capabilities, cni_network
from containerd_aio.execdriver.spec import Joined, check, exec_process, spec_opts
from containerd_aio.execdriver.state import ProcessState, StateFiles
from containerd_aio.execdriver.terminal import TtyConsole, new_console
from containerd_aio.execdriver.types import Command, ExitStatus, ProcessConfig, StartCallback
from containerd_aio.oci.users import resolve_user, supplementary_gids

if TYPE_CHECKING:
    from containerd_aio.client import Client
    from containerd_aio.execdriver.pipes import Pipes
    from containerd_aio.oci import Spec
    from containerd_aio.process import Process
    from containerd_aio.task import Task

DEFAULT_ROOT = "/run/containerd-aio/execdriver"
_UNDO_TIMEOUT = 30.0

_T = TypeVar("_T")
_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Active:
    """A container that `ContainerdDriver.run` runs: its task once there is one, and when all of it is gone."""

    gone: anyio.Event
    task: Task | None = None


class ContainerdInfo:
    """What the driver knows of a container."""

    def __init__(self, files: StateFiles, container_id: str) -> None:
        self._files = files
        self._id = container_id

    def is_running(self) -> bool:
        """Return whether its process runs: the one that was started, not another that has its pid by now."""
        process = self._files.process(self._id)
        return process is not None and process.is_alive()


class ContainerdDriver:
    """Runs commands as containers, on the machine of a containerd, as root.

    Args:
        client: An open client; its namespace is that of the containers.
        root: Directory for what is kept of running containers. Two drivers must not share one.
        runtime: Name of the runtime; the client's default if None.
        start_timeout: Seconds until a process must run; after that `NotRunning`.
        wait_timeout: Seconds until a process must be gone that was killed; after that `WaitTimeoutReached`.
        cni: ``plugin_dirs`` and ``cache_dir`` of `cni.Network`, for bridged interfaces.
    """

    def __init__(
        self,
        client: Client,
        *,
        root: str | os.PathLike[str] = DEFAULT_ROOT,
        runtime: str | None = None,
        start_timeout: float = 60.0,
        wait_timeout: float = 10.0,
        cni: dict[str, Any] | None = None,
    ) -> None:
        for name, seconds in (("start_timeout", start_timeout), ("wait_timeout", wait_timeout)):
            if not seconds > 0:
                raise InvalidArgument(f"{name} is {seconds}; it must be more than 0 seconds")
        self._client = client
        self._files = StateFiles(root)
        self._runtime = runtime
        self._start_timeout = start_timeout
        self._wait_timeout = wait_timeout
        self._cni = dict(cni or {})
        self._active: dict[str, _Active] = {}

    def __repr__(self) -> str:
        return f"<ContainerdDriver {self.name()} of {self._client!r}>"

    def name(self) -> str:
        """Return ``containerd-`` and the version of this library."""
        return f"containerd-{__version__}"

    async def run(
        self, command: Command, pipes: Pipes, start_callback: StartCallback | None = None
    ) -> ExitStatus:
        """Run a container until it ends; nothing is left of it then. Cancelling kills it.

        Args:
            command: What to run; ``container_pid`` and ``process_config.terminal`` are set.
            pipes: Its standard streams.
            start_callback: Called once when it runs, before this returns. When it raises, the container is killed.

        Raises:
            InvalidArgument: The command can't be run as it is.
            AlreadyExists: There is a container of that id.
            NotFound: Its user is not in the root filesystem's ``/etc/passwd``; or a CNI plugin is missing.
            FailedPrecondition: A container whose network or IPC it joins does not run.
            NotRunning: The runtime could not start it; the text is runc's.
        """
        check(command)
        config, network = command.process_config, command.network
        opts = spec_opts(command, await self._joined(command))
        attachable = cni_network(network, **self._cni) if network is not None else None
        terminal = new_console(config, pipes)
        if command.lxc_config:
            _log.warning("lxc_config means nothing to containerd", container_id=command.id)
        async with AsyncExitStack() as stack:
            active = await stack.enter_async_context(self._entry(command))
            container = await self._client.new_container(command.id, spec_opts=opts, runtime=self._runtime)
            await stack.enter_async_context(container)
            active.task = task = await self._running(container.new_task(io=config.io))
            await stack.enter_async_context(task)
            if isinstance(terminal, TtyConsole):
                terminal.attach_process(task)
            if attachable is not None and network is not None and network.interface is not None:
                told = capabilities(network.interface)
                netns = f"/proc/{task.pid}/ns/net"
                await stack.enter_async_context(attachable.attach(command.id, netns, capabilities=told))
            self._keep(command, task)
            await self._running(task.start())
            await _call(start_callback, config, task)
            status = await task.wait()
        status = task.exit_status or status  # an OOM kill may have been told late
        return ExitStatus(status.code, status.oom_killed)

    async def exec(
        self,
        command: Command,
        process_config: ProcessConfig,
        pipes: Pipes,
        start_callback: StartCallback | None = None,
    ) -> int:
        """Run another process in a running container until it ends, and return its exit code. Cancelling kills it.

        Environment, working directory and user are the container's, unless the config has its own.

        Args:
            command: The container.
            process_config: The process; ``pid`` and ``terminal`` are set.
            pipes: Its standard streams.
            start_callback: Called once when it runs, with this config. (Docker 1.4 gave the container's.)

        Raises:
            InvalidArgument: The process can't be run as it is.
            NotFound: The container does not run; or the user is not in its root filesystem.
            NotRunning: The runtime could not start it; the text is runc's.
        """
        task = await self._task(command.id, "No active container exists with ID {}")
        spec = await task.spec()
        ids = await anyio.to_thread.run_sync(_look_up, spec, process_config.user)
        wanted = exec_process(spec, process_config, ids)
        terminal = new_console(process_config, pipes)
        exec_id = f"exec-{secrets.token_hex(8)}"
        process = await task.exec(exec_id, dict(wanted), io=process_config.io)
        if isinstance(terminal, TtyConsole):
            terminal.attach_process(process)
        try:
            await self._running(process.start())
        except BaseException as exc:
            if not isinstance(exc.__cause__, Unknown):  # what the runtime refuses is removed already
                with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
                    with suppress(ContainerdError):
                        await process.delete(kill=True)
                    await process.aclose()
            raise
        async with process:
            await _call(start_callback, process_config, process)
            status = await process.wait()
        return status.code

    async def kill(self, command: Command, sig: int) -> None:
        """Send a signal to the container's first process.

        Raises:
            NotFound: The container does not run.
            InvalidArgument: There is no such signal.
        """
        await (await self._task(command.id)).kill(sig)

    async def pause(self, command: Command) -> None:
        """Freeze every process of the container.

        Raises:
            NotFound: The container does not run.
            Unknown: The runtime refused, as it is paused already.
        """
        await (await self._task(command.id)).pause()

    async def unpause(self, command: Command) -> None:
        """Thaw what `pause` froze.

        Raises:
            NotFound: The container does not run.
            Unknown: The runtime refused, as it is not paused.
        """
        await (await self._task(command.id)).resume()

    def info(self, container_id: str) -> ContainerdInfo:
        """Return what is known of a container; of one that never was, that it does not run.

        Raises:
            InvalidArgument: It is not the id of a container.
        """
        return ContainerdInfo(self._files, container_id)

    async def get_pids_for_container(self, container_id: str) -> list[int]:
        """Return the host pids of every process in the container.

        Raises:
            NotFound: The container does not run.
        """
        return await (await self._task(container_id)).pids()

    async def terminate(self, command: Command) -> None:
        """Kill a container with fire, and clean up after it; also one of a driver that was killed itself.

        The process is killed directly, whether or not containerd answers; but only if it is the one that was started,
        and not another that has its pid by now. A container of which nothing is kept is gone already.

        Raises:
            WaitTimeoutReached: It did not end in time.
        """
        container_id = command.id
        if not self._files.knows(container_id):
            return
        process = self._files.process(container_id)
        if process is not None:

            async def thaw() -> None:
                await self._thaw(container_id)

            await process.destroy(self._wait_timeout, signalled=thaw)
        active = self._active.get(container_id)
        if active is None:
            await self._detach(container_id)
            await self._remove(container_id)
            self._files.remove(container_id)
            return
        with anyio.move_on_after(self._wait_timeout) as waiting:
            await active.gone.wait()
        if waiting.cancelled_caught:
            raise WaitTimeoutReached(f"{container_id} is still there {self._wait_timeout:g} s after its end")

    async def clean(self, container_id: str) -> None:
        """Remove every trace the driver keeps of a container.

        Raises:
            FailedPrecondition: It runs, by this driver.
            InvalidArgument: It is not the id of a container.
        """
        if container_id in self._active:
            raise FailedPrecondition(f"container {container_id!r} runs; terminate it first")
        await anyio.to_thread.run_sync(self._files.clean, container_id)

    # --- within -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _entry(self, command: Command) -> AsyncIterator[_Active]:
        """Have the container in the books for as long as there is anything of it."""
        if command.id in self._active:
            raise AlreadyExists(f"container {command.id!r} runs already")
        if self.info(command.id).is_running():
            raise AlreadyExists(f"container {command.id!r} runs since an earlier driver; terminate it first")
        self._active[command.id] = active = _Active(anyio.Event())
        try:
            self._files.write(command.id, command.to_json())
            yield active
        finally:
            with suppress(InvalidArgument):
                self._files.remove(command.id)
            del self._active[command.id]
            active.gone.set()

    def _keep(self, command: Command, task: Task) -> None:
        """Keep which process it is, before it runs: what is killed later must be this one."""
        process = ProcessState.of(task.pid) if task.pid is not None else None
        if process is None:
            raise NotRunning(
                f"process {task.pid} of {command.id!r} is not on this machine, or ended by itself"
            )
        self._files.write_process(command.id, process)
        command.container_pid = process.pid

    async def _running(self, starting: Awaitable[_T]) -> _T:
        """Await what makes or starts a process; when the runtime refuses, or takes too long, it is `NotRunning`."""
        try:
            with anyio.fail_after(self._start_timeout):
                return await starting
        except Unknown as exc:
            raise NotRunning(exc.message, method=exc.method) from exc
        except TimeoutError as exc:
            raise NotRunning(f"not within {self._start_timeout:g} s") from exc

    async def _task(self, container_id: str, missing: str = "active container for {} does not exist") -> Task:
        """Return the task of a container: of one that this driver runs, or of one that an earlier driver ran."""
        active = self._active.get(container_id)
        if active is not None and active.task is not None:
            return active.task
        try:
            return await (await self._client.container(container_id)).task()
        except NotFound as exc:
            raise NotFound(missing.format(container_id), method=exc.method) from exc

    async def _joined(self, command: Command) -> Joined:
        """Look up the namespaces of other containers that it joins."""
        network, ipc = command.network, command.ipc
        paths = {}
        for kind, wanted, host in (
            ("net", network.container_id if network else "", network is not None and network.host_networking),
            ("ipc", ipc.container_id if ipc else "", ipc is not None and ipc.host_ipc),
        ):
            paths[kind] = f"/proc/{await self._pid_to_join(wanted)}/ns/{kind}" if wanted and not host else ""
        return Joined(network=paths["net"], ipc=paths["ipc"])

    async def _pid_to_join(self, container_id: str) -> int:
        with suppress(NotFound):
            task = await self._task(container_id)
            if task.pid and await task.status() in {"running", "paused", "pausing"}:
                return task.pid
        raise FailedPrecondition(f"{container_id} is not a valid running container to join")

    async def _thaw(self, container_id: str) -> None:
        with suppress(ContainerdError):
            task = await self._task(container_id)
            if await task.status() in {"paused", "pausing"}:
                await task.resume()

    async def _detach(self, container_id: str) -> None:
        """Undo the network of a container whose driver is gone."""
        try:
            command = Command.from_json(self._files.command(container_id) or {"id": container_id})
            network = cni_network(command.network, **self._cni) if command.network is not None else None
            if network is not None:
                await network.delete(container_id)
        except ContainerdError as exc:
            _log.warning("killed, but its network is left", container_id=container_id, error=str(exc))

    async def _remove(self, container_id: str) -> None:
        """Remove what containerd has of a container whose driver is gone."""
        try:
            async with await self._client.container(container_id):
                pass
        except NotFound:
            pass
        except ContainerdError as exc:
            _log.warning("killed, but its record is left", container_id=container_id, error=str(exc))


async def _call(callback: StartCallback | None, config: ProcessConfig, process: Process) -> None:
    config.pid = process.pid or 0
    if callback is not None:
        result = callback(config, config.pid)
        if inspect.isawaitable(result):
            await result


def _look_up(spec: Spec, user: str) -> tuple[int, int, list[int]] | None:
    """Return the ids of a user in the container's root filesystem; None for the container's own."""
    if not user:
        return None
    root = spec["root"]["path"]
    uid, gid = resolve_user(root, user)
    groups = supplementary_gids(root, uid)
    return uid, gid, groups if gid in groups else [gid, *groups]
