"""The way to containerd: the connection, the daemon process if it is ours, and the clients of it."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio

from containerd_aio._identifiers import check_identifier
from containerd_aio._log import get_logger
from containerd_aio._supervisor import Supervisor
from containerd_aio.errors import Closed, InvalidArgument
from containerd_aio.libcontainerd._bundles import Bundles, Marker
from containerd_aio.libcontainerd._delivery import Delivery
from containerd_aio.libcontainerd._keeper import Core, Keeper
from containerd_aio.libcontainerd.client import Client
from containerd_aio.libcontainerd.options import runtime_of
from containerd_aio.libcontainerd.remote_options import RemoteSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from containerd_aio import Daemon, StateChange
    from containerd_aio.events.dispatch import Retry
    from containerd_aio.libcontainerd._delivery import CallbackFailure
    from containerd_aio.libcontainerd.backend import Backend
    from containerd_aio.libcontainerd.remote_options import RemoteOption

# Our handler only hands changes on, and never waits: more than this is never there at once.
_BUFFER = 1_000_000

_log = get_logger(__name__)


class Remote:
    """libcontainerd's way to containerd, as an async context manager.

    ::

        async with Remote("/var/lib/service", with_start_daemon(), with_live_restore(True)) as remote:
            client = await remote.client(backend)
            await client.create("web", spec, attach_stdio=take_streams)

    With `with_start_daemon` it starts a containerd of its own below its directory, or adopts the one that it left running
    the last time, watches it, and starts it again when it ends or hangs. Leaving the context lets go of the containers,
    which go on; with live restore, the containerd that was started goes on as well, so that no exit is missed until the
    next start, and otherwise it is stopped as by `cleanup`. If this process is killed, all goes on.

    Args:
        state_dir: Directory for what must outlive this process: how containers ended, checkpoints, the data of a containerd
            that is started. One `Remote` at a time.
        options: See the ``with_*`` functions.
        namespace: containerd's namespace for the containers.

    Raises:
        InvalidArgument: An option can't be used.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *options: RemoteOption,
        namespace: str = "libcontainerd",
    ) -> None:
        self._state_dir = Path(state_dir).absolute()
        self._namespace = check_identifier(namespace, "namespace")
        self._settings = RemoteSettings()
        for option in options:
            option.apply(self._settings)
        runtime_of(self._settings.runtime_path, self._settings.runtime_args)
        self._marker = Marker(self._state_dir / "event.ts")
        self._last_event: datetime | None = None
        self._stack: AsyncExitStack | None = None
        self._deliveries = AsyncExitStack()
        self._core: Core | None = None
        self._keepers: list[Keeper] = []
        self._daemon: Daemon | None = None
        self._supervisor = Supervisor()

    def __repr__(self) -> str:
        return f"<Remote {self._state_dir} namespace={self._namespace}>"

    @property
    def address(self) -> str:
        """Where containerd listens."""
        if self._daemon is not None:
            return self._daemon.address
        return self._settings.address or "/run/containerd/containerd.sock"

    @property
    def daemon(self) -> Daemon | None:
        """The containerd that was started or adopted; None without `with_start_daemon`."""
        return self._daemon

    @property
    def live_restore(self) -> bool:
        """Whether containers that run are kept by `Client.restore`."""
        return self._settings.live_restore

    @property
    def last_event(self) -> datetime | None:
        """When a backend was last told of something before this `Remote` was opened; None when that is not known.

        For people to look at: nothing depends on it, as containerd can't be asked for what came since.
        """
        return self._last_event

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start or adopt containerd if that was asked for, and connect.

        Raises:
            ConnectError: containerd can't be reached; the text names cause and cure.
            Unavailable: containerd did not start; the text has the last lines of its log.
            NotFound: There is no containerd to start.
            FailedPrecondition: The directory is in use by another `Remote` that keeps a containerd.
        """
        if self._stack is not None:
            raise Closed("this remote was opened already; make another one")
        self._stack = stack = AsyncExitStack()
        try:
            await self._open(stack)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stack.aclose()
            raise
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        from containerd_aio import Client as Containerd

        settings = self._settings
        self._last_event = self._marker.read()
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if settings.start_daemon:
            self._daemon = await stack.enter_async_context(self._make_daemon())
            stack.push_async_callback(self._stop_unless_kept)
        containerd = await stack.enter_async_context(Containerd(self.address, namespace=self._namespace))
        # In the end, what submits callbacks is gone before what delivers them.
        await stack.enter_async_context(self._deliveries)
        changes = containerd.state_changes(self._take, buffer=_BUFFER)
        await stack.enter_async_context(changes)
        await self._supervisor.start(f"containerd-aio remote {self._state_dir}")
        stack.push_async_callback(self._supervisor.stop)
        self._core = Core(
            containerd,
            changes,
            self._supervisor.task_group,
            Bundles(self._state_dir / "containers"),
            live_restore=settings.live_restore,
            runtime=runtime_of(settings.runtime_path, settings.runtime_args)
            if settings.runtime_path or settings.runtime_args
            else ("", None),
        )

    def _make_daemon(self) -> Daemon:
        from containerd_aio.daemon import Daemon

        settings = self._settings
        config = dict(settings.config)
        if settings.oom_score is not None:
            config["oom_score"] = settings.oom_score
        options: dict[str, Any] = {
            "root": self._state_dir / "containerd",
            "address": settings.address or None,
            "config": config,
            "log_level": settings.log_level,
            "detach": True,
            "supervise": True,
        }
        return Daemon(**options | settings.daemon)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End the connection, and containerd if it was started and live restore is off.

        Callbacks at work are cancelled; calls that wait for one fail with `Closed`, and have undone what they began.
        """
        stack, self._core = self._stack, None
        assert stack is not None
        with anyio.CancelScope(shield=True):
            await stack.aclose()

    async def _stop_unless_kept(self) -> None:
        if not self.live_restore:
            await self.cleanup()

    async def cleanup(self) -> None:
        """Stop containerd, if it was started or adopted here. Containers that run go on.

        SIGTERM, and SIGKILL after 15 seconds; its socket and pid file are removed.
        """
        if self._daemon is not None:
            await self._daemon.stop()

    def update_options(self, *options: RemoteOption) -> None:
        """Apply options to an open remote. Of all of them only `with_live_restore` has an effect then.

        Raises:
            InvalidArgument: An option can't be used.
        """
        for option in options:
            option.apply(self._settings)
        if self._core is not None:
            self._core.live_restore = self._settings.live_restore

    # --- clients ------------------------------------------------------------------------------------------------------

    async def client(
        self,
        backend: Backend,
        *,
        start_process: bool = False,
        retry: Retry | None = None,
        callback_timeout: float | None = None,
        on_error: Callable[[CallbackFailure], object] | None = None,
        confirm_timeout: float = 10.0,
    ) -> Client:
        """Make a client for a backend; there may be several. A change is for the first that knows the container.

        Args:
            backend: Who is told.
            start_process: Also tell ``start-process``, which libcontainerd never sent.
            retry: When to call the backend again after it raised; by default its container's next change follows at once.
            callback_timeout: Seconds that one call may take; it is then cancelled, which counts as raising. None for no
                limit.
            on_error: Called, synchronously, with every failure; by default they are logged.
            confirm_timeout: Seconds that `Client.pause` and `Client.resume` wait for the backend to be told.

        Raises:
            Closed: The remote is not open.
            InvalidArgument: An argument can't be used.
        """
        if self._core is None:
            raise Closed("the remote is not open; use it inside 'async with Remote(...)'")
        if not callable(getattr(backend, "state_changed", None)):
            raise InvalidArgument(
                f"a backend has a method state_changed(container_id, state), not {backend!r}"
            )
        if callback_timeout is not None and not callback_timeout > 0:
            raise InvalidArgument(f"callback_timeout is {callback_timeout}; it must be more than 0 seconds")
        if not confirm_timeout > 0:
            raise InvalidArgument(f"confirm_timeout is {confirm_timeout}; it must be more than 0 seconds")
        delivery = Delivery(
            backend,
            retry=retry,
            timeout=callback_timeout,
            on_error=on_error,
            delivered=self._delivered,
            task_group=self._supervisor.task_group,
        )
        keeper = Keeper(self._core, delivery, start_process=start_process)
        self._deliveries.push_async_callback(keeper.finish_calls)  # those that are told that it was closed
        await self._deliveries.enter_async_context(delivery)
        self._keepers.append(keeper)
        return Client(keeper, backend, confirm_timeout=confirm_timeout)

    async def _take(self, change: StateChange) -> None:
        """Give a change to the first client that knows the container."""
        if not any(keeper.take(change) for keeper in self._keepers):
            _log.debug("change of an unknown container", container_id=change.container_id, state=change.state)

    async def _delivered(self) -> None:
        self._marker.write()
