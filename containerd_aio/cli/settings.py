"""What the options before the command say, and how a command is run with them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVarTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

    from containerd_aio.client import Client

_Args = TypeVarTuple("_Args")

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a command is ended with, in good order: it is cancelled and clears up."""

_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that every command has.

    Attributes:
        address: Address of containerd; None is the client's default.
        namespace: Namespace; None when none was named.
        timeout: Seconds a call may take.
        debug: Log everything, and show tracebacks.
    """

    address: str | None = None
    namespace: str | None = None
    timeout: float = 30.0
    debug: bool = False

    def client(self, *, lazy: bool = False) -> Client:
        """Return a client, not connected yet.

        Args:
            lazy: Connect on first use.

        Raises:
            InvalidArgument: Address or namespace are malformed.
        """
        from containerd_aio.client import Client

        return Client(
            self.address,
            namespace=self.namespace,
            timeout=self.timeout,
            connect_timeout=min(10.0, self.timeout),
            lazy=lazy,
        )

    def run(
        self,
        function: Callable[[*_Args], Awaitable[int]],
        *args: *_Args,
        log_level: str = "warning",
        own_signals: bool = False,
    ) -> int:
        """Run a command's coroutine function to its end.

        It is cancelled by the `ENDING_SIGNALS`, and has the time it needs to clear up. A second Ctrl-C changes nothing;
        a third one is meant seriously.

        Args:
            function: Returns the exit code.
            *args: Its arguments.
            log_level: What of the library's log is shown, on stderr; with ``--debug`` all is.
            own_signals: The function handles signals itself.

        Returns:
            The exit code; 128 + N when signal N cancelled it.
        """
        import anyio

        from containerd_aio.cli.logs import configure_logs

        async def work() -> int:
            return await function(*args)

        configure_logs("debug" if self.debug else log_level, tracebacks=self.debug)
        return anyio.run(work) if own_signals else anyio.run(_ended_by_signals, work)


def respected(*signals: signal.Signals) -> list[signal.Signals]:
    """Return those signals that whoever started us has not told us to ignore (``nohup``, a shell's background jobs)."""
    return [signum for signum in signals if signal.getsignal(signum) is not signal.SIG_IGN]


async def _ended_by_signals(function: Callable[[], Awaitable[int]]) -> int:
    import anyio

    code = 0

    async def listen(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        nonlocal code
        with anyio.open_signal_receiver(*respected(*ENDING_SIGNALS)) as received:
            task_status.started()
            count = 0
            async for signum in received:
                code = code or 128 + signum
                scope.cancel()
                count += 1
                if count == _PATIENCE:
                    os._exit(code)

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            await group.start(listen, scope)
            result = await function()
            code = code or result
        group.cancel_scope.cancel()
    return code
