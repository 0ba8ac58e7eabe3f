"""Passing our signals on to a container in the foreground."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio

from containerd_aio.cli.main import complain
from containerd_aio.cli.settings import ENDING_SIGNALS, respected
from containerd_aio.errors import ContainerdError, NotFound

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from containerd_aio.task import Process

FORWARDED = (*ENDING_SIGNALS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What is passed on. SIGWINCH is not among them: it changes the size of the terminal."""

# Seconds for one signal to reach the container: with the daemon away, the user must get an answer.
_DELIVERY_TIMEOUT = 5.0
# So many ending signals that could not be delivered, and we leave without the container.
_PATIENCE = 2


class SignalForwarder:
    """Passes signals on to a process; while there is none, a signal that ends programs ends the preparations.

    Args:
        scope: Cancelled when we are to end: before the process exists, or when it can't be reached any more.

    Attributes:
        process: Who gets the signals; None as long as there is nobody.
        started: To be set when the process runs; signals wait for that.
        ended_by: The signal for which `scope` was cancelled; None if it was not.
    """

    def __init__(self, scope: anyio.CancelScope) -> None:
        self.process: Process | None = None
        self.started = anyio.Event()
        self.ended_by: int | None = None
        self._scope = scope
        self._undelivered = 0

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Take signals until cancelled."""
        with anyio.open_signal_receiver(*respected(*FORWARDED)) as received:
            task_status.started()
            async for signum in received:
                if self.process is not None:
                    await self._deliver(self.process, signum)
                elif signum in ENDING_SIGNALS or signum == signal.SIGQUIT:
                    self._end(signum)

    async def _deliver(self, process: Process, signum: signal.Signals) -> None:
        try:
            with anyio.fail_after(_DELIVERY_TIMEOUT):
                await self.started.wait()
                await process.kill(signum)
        except NotFound:
            return  # it has just ended
        except (ContainerdError, TimeoutError) as exc:
            complain(f"{signum.name} was not delivered: {str(exc) or 'containerd does not answer'}")
            self._undelivered += signum in ENDING_SIGNALS
            if self._undelivered >= _PATIENCE:
                self._end(signum)

    def _end(self, signum: int) -> None:
        if self.ended_by is None:
            self.ended_by = signum
            self._scope.cancel()
