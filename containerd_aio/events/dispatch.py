"""Handing items to an async handler: in order for each key, at the same time for different keys.

What one key's handler does, be it slow, raising or stuck for ever, is felt by that key alone. Whoever submits is never
made to wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import anyio

from containerd_aio._backoff import Backoff
from containerd_aio._log import get_logger
from containerd_aio._supervisor import Supervisor
from containerd_aio.errors import Closed, DeadlineExceeded, InvalidArgument, ResourceExhausted

if TYPE_CHECKING:
    from types import TracebackType

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and when, a handler that failed is called again with the same item.

    What comes later for the same key waits meanwhile, so that order is kept; other keys go on. The delays are those of
    Kubernetes' CRI plugin of containerd, drawn at random below a ceiling that doubles.

    Attributes:
        initial: First ceiling, seconds.
        maximum: Last ceiling, seconds.
        attempts: How often the handler is called for one item, the first time included; None for no end.
    """

    initial: float = 1.0
    maximum: float = 300.0
    attempts: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum:
            raise InvalidArgument(
                f"retry: initial is {self.initial} and maximum {self.maximum}; the delays must be more than 0 and grow"
            )
        if self.attempts is not None and self.attempts < 1:
            raise InvalidArgument(f"retry: attempts is {self.attempts}; the handler is called at least once")


@dataclass(frozen=True, slots=True)
class DeliveryFailure(Generic[K, T]):
    """An item that a handler did not take.

    Attributes:
        key: Whose it was.
        item: The item.
        error: What the handler raised; `DeadlineExceeded` when it took too long, `ResourceExhausted` when it was never
            called because too many items waited for it.
        attempts: How often the handler was called with it.
        retry_in: Seconds until it is called again; None when the item is given up.
    """

    key: K
    item: T
    error: BaseException
    attempts: int
    retry_in: float | None


def log_failure(failure: DeliveryFailure[K, T]) -> None:
    """Log a failure: the default of `Dispatcher`."""
    level = "error" if failure.retry_in is None else "warning"
    getattr(_log, level)(
        "handler failed",
        key=failure.key,
        item=repr(failure.item),
        attempts=failure.attempts,
        retry_in=failure.retry_in,
        exc_info=failure.error,
    )


class Dispatcher(Generic[K, T]):
    """Calls a handler for every item that is submitted, for use as ``async with Dispatcher(handler) as dispatcher``.

    There is one worker for each key that has work, and none for a key that has not, so nothing remains of a key that
    came and went. Leaving the ``async with`` cancels handlers that are at work and forgets what waits; await `drain`
    before to have all delivered.

    Args:
        handler: Called with each item; a second call for the same key begins when the first has ended.
        retry: When to call again after a failure; by default the item is given up and the next one is handed out.
        timeout: Seconds that one call may take; it is then cancelled, which counts as a failure. None for no limit.
        on_error: Called, synchronously, with every failure, those that will be retried too; `log_failure` by default.
        buffer: How many items may wait for one key. When there are more, the oldest that waits is given up, which
            `on_error` is told like any other failure: the newest says most about how things stand.

    Attributes:
        delivered: Items that the handler took.
        failed: Items that were given up after the handler had failed.
        dropped: Items that were given up because too many waited.

    Raises:
        InvalidArgument: An argument can't be used.
    """

    def __init__(
        self,
        handler: Callable[[T], Awaitable[object]],
        *,
        retry: Retry | None = None,
        timeout: float | None = None,
        on_error: Callable[[DeliveryFailure[K, T]], object] | None = None,
        buffer: int = 1000,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise InvalidArgument(f"timeout is {timeout}; it must be more than 0 seconds, or None")
        if buffer < 1:
            raise InvalidArgument(f"buffer is {buffer}; there must be room for at least one item")
        self._handler = handler
        self._retry = retry
        self._timeout = timeout
        self._on_error = on_error or log_failure
        self._buffer = buffer
        self._waiting: dict[K, deque[T]] = {}
        self._at_work: dict[K, tuple[T, anyio.CancelScope]] = {}
        self._supervisor: Supervisor | None = None
        self._worker_ended = anyio.Event()
        self._pending = 0
        self.delivered = 0
        self.failed = 0
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Items that wait or are being handled."""
        return self._pending

    @property
    def keys(self) -> int:
        """Keys that have such items."""
        return len(self._waiting)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        supervisor = Supervisor()
        await supervisor.start("containerd-aio dispatcher")
        self._supervisor = supervisor
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel handlers that are at work, forget what waits, and return when all of them have ended."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            await supervisor.stop()
        if self._waiting:  # of workers that were cancelled before they began
            self._waiting.clear()
            self._pending = 0
            self._tell_end()

    async def drain(self, key: K | None = None) -> None:
        """Return when nothing waits and no handler is at work.

        A handler that never returns makes it wait for ever, and so may whoever goes on submitting.

        Args:
            key: Look at this key alone.
        """
        while self._waiting if key is None else key in self._waiting:
            await self._worker_ended.wait()

    # --- items --------------------------------------------------------------------------------------------------------

    def submit(self, key: K, item: T) -> None:
        """Have the handler called with `item` after those submitted for `key` before. It never waits.

        Raises:
            Closed: The dispatcher is not open.
        """
        if self._supervisor is None:
            raise Closed("the dispatcher is not open; use it inside 'async with Dispatcher(...)'")
        self._pending += 1
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque((item,))
            self._supervisor.task_group.start_soon(self._work, key, waiting, name=f"handler of {key}")
            return
        waiting.append(item)
        if len(waiting) > self._buffer:
            oldest = waiting.popleft()
            self._pending -= 1
            self.dropped += 1
            error = ResourceExhausted(
                f"more than {self._buffer} items wait for a handler that does not return"
            )
            self._report(DeliveryFailure(key, oldest, error, 0, None))

    def withdraw(self, key: K, item: T) -> None:
        """Give an item up: one that waits is not handed out, and the handler is cancelled that is at work on it.

        What is not there any more is fine. `on_error` is not told.
        """
        waiting = self._waiting.get(key, ())
        at_work, scope = self._at_work.get(key, (None, None))
        if scope is not None and at_work is item:
            scope.cancel()
        elif item in waiting:
            self._waiting[key].remove(item)
            self._pending -= 1

    async def _work(self, key: K, waiting: deque[T]) -> None:
        """Hand out the items of one key until there is none."""
        try:
            while waiting:
                item = waiting.popleft()
                try:
                    with anyio.CancelScope() as scope:
                        self._at_work[key] = item, scope
                        await self._deliver(key, item)
                finally:
                    del self._at_work[key]
                    self._pending -= 1
        finally:
            del self._waiting[key]
            self._pending -= len(waiting)
            self._tell_end()

    async def _deliver(self, key: K, item: T) -> None:
        attempts = 0
        backoff: Backoff | None = None
        while True:
            attempts += 1
            error = await self._attempt(item)
            if error is None:
                self.delivered += 1
                return
            delay = None
            if self._retry is not None and attempts != self._retry.attempts:
                backoff = backoff or Backoff(self._retry.initial, self._retry.maximum)
                delay = backoff.next()
            self._report(DeliveryFailure(key, item, error, attempts, delay))
            if delay is None:
                self.failed += 1
                return
            await anyio.sleep(delay)

    async def _attempt(self, item: T) -> BaseException | None:
        """Call the handler once; return why it failed."""
        try:
            with anyio.move_on_after(self._timeout) as scope:
                result = self._handler(item)
                if not isawaitable(result):
                    return TypeError(f"the handler must be an async function; it returned {result!r}")
                await result
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is the handler's
            return exc
        except asyncio.CancelledError as exc:
            if anyio.current_effective_deadline() == -math.inf:
                raise  # it is us who are cancelled
            # The handler's own doing: something it waited for was cancelled, or it has cancelled its own task.
            task = asyncio.current_task()
            assert task is not None
            while task.cancelling():
                task.uncancel()
            return exc
        if scope.cancelled_caught:
            return DeadlineExceeded(f"the handler had not returned after {self._timeout:g} s")
        return None

    def _report(self, failure: DeliveryFailure[K, T]) -> None:
        try:
            self._on_error(failure)
        except Exception:  # noqa: BLE001 - nor may the hook stop the others
            _log.exception("error hook failed", key=failure.key)

    def _tell_end(self) -> None:
        ended, self._worker_ended = self._worker_ended, anyio.Event()
        ended.set()
