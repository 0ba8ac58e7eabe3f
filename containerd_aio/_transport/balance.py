"""Cancellations that grpclib sends to wake a waiting task are taken back here.

grpclib interrupts a blocked call by cancelling the task that waits in it. It never withdraws that request, so
``Task.cancelling()`` stays raised, which breaks every enclosing ``asyncio.timeout`` and anyio cancel scope; and when a
genuine cancellation arrives in the same tick it is lost. These wrappers count what they sent and settle the account on
exit (docs/decisions/0002).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpclib.exceptions import StreamTerminatedError
from grpclib.utils import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from grpclib.metadata import Deadline


def _unsettled() -> bool:
    return False


class BalancedWrapper(Wrapper):
    """A grpclib ``Wrapper`` that leaves ``Task.cancelling()`` as it found it and never swallows a real cancellation.

    Attributes:
        settled: Tells whether the call's status is here. A stream that is terminated after that has simply ended:
            containerd resets the stream of a finished write, for example.
    """

    def __init__(self) -> None:
        super().__init__()
        self.settled: Callable[[], bool] = _unsettled
        self._waited_for: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # task -> (its cancelling() at entry, how many cancels we sent since)
        self._accounts: dict[asyncio.Task[Any], tuple[int, int]] = {}

    @property
    def error(self) -> Exception | None:
        """What ended the call from outside: a lost connection or the deadline."""
        return self._error

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._accounts[task] = (task.cancelling(), 0)

    async def wait(self, future: asyncio.Future[None]) -> None:
        """Wait for `future`, which is set as well by what ends the call: then no task has to be interrupted.

        Raises:
            Exception: What has ended the call, unless its status is here.
        """
        if self._error is None:
            self._waited_for = future
            await future
        if self._error is not None and not self.settled():
            raise self._error

    def arm(self, deadline: Deadline) -> None:
        """Let `deadline` end the call.

        Raises:
            TimeoutError: It has already passed.
        """
        remaining = deadline.time_remaining()
        if not remaining:
            self._expire()
            assert self._error is not None
            raise self._error
        self._timer = asyncio.get_running_loop().call_later(remaining, self._expire)

    def disarm(self) -> None:
        """Forget the deadline: the call is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self.cancel(TimeoutError("deadline passed"))

    def cancel(self, error: Exception) -> None:
        """Wake every task inside with `error`; the first error stands."""
        if self._error is not None or (isinstance(error, StreamTerminatedError) and self.settled()):
            return
        self._error = error
        self.cancelled = True
        if self._waited_for is not None and not self._waited_for.done():
            self._waited_for.set_result(None)
        for task in list(self._tasks):
            if task is asyncio.current_task():
                # It runs right now: a cancel would hit some later, unrelated await.
                asyncio.get_running_loop().call_soon(self._interrupt, task)
            else:
                self._interrupt(task)

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        account = self._accounts.get(task)
        if account is not None and task in self._tasks:
            task.cancel()
            self._accounts[task] = (account[0], account[1] + 1)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)
        at_entry, sent = self._accounts.pop(task, (task.cancelling(), 0))
        for _ in range(sent):
            task.uncancel()
        if self._error is None:
            return
        if exc_type is asyncio.CancelledError and task.cancelling() > at_entry:
            return  # somebody else cancelled this task as well: theirs goes first
        if exc is self._error:
            return
        raise self._error from None
