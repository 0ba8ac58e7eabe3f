"""Telling a backend: in order for each container, at the same time for different ones."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import anyio

from containerd_aio.errors import Closed, DeadlineExceeded
from containerd_aio.events.dispatch import DeliveryFailure, Dispatcher, Retry, log_failure
from containerd_aio.libcontainerd.backend import awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from anyio.abc import TaskGroup

    from containerd_aio.libcontainerd.backend import Backend
    from containerd_aio.libcontainerd.states import StateInfo

# A backend that does not keep up with one container is told of the newest changes.
_BUFFER = 10_000
# Seconds that the clearing away after an exit may take when all is being closed.
_FINISH_TIMEOUT = 10.0

CallbackFailure: TypeAlias = "DeliveryFailure[str, Callback]"
"""A callback that failed: `DeliveryFailure.item` has the container's id and the state."""


@dataclass(eq=False, slots=True)
class Callback:
    """One call of `Backend.state_changed`.

    Attributes:
        container_id: About which container.
        state: What it is told.
        prepare: Awaited once, before the first attempt.
        finish: Awaited after the backend took it or it was given up.
        locked: Whether the container is locked until it has ended.
        ended: Set when it was taken or given up, and what follows is done.
        error: Why it was given up.
    """

    container_id: str
    state: StateInfo
    prepare: Callable[[], Coroutine[Any, Any, None]] | None = None
    finish: Callable[[], Coroutine[Any, Any, None]] | None = None
    locked: bool = False
    ended: anyio.Event = field(default_factory=anyio.Event)
    error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Callback {self.container_id} {self.state.state}>"


@dataclass(eq=False, slots=True)
class _Turn:
    """A callback that is running, as seen from inside of it.

    Attributes:
        owner: Whose it is.
        container_id: About which container.
        locked: Whether the container is locked until it returns.
        over: Whether it has returned.
    """

    owner: Delivery
    container_id: str
    locked: bool
    over: bool = False


# Tasks that a callback starts inherit it, and may outlive it: hence `over`.
_turns: ContextVar[tuple[_Turn, ...]] = ContextVar("containerd_aio_libcontainerd_turns", default=())


class Delivery:
    """The callbacks of one backend.

    Args:
        backend: The backend.
        retry: As in `Remote.client`.
        timeout: As in `Remote.client`.
        on_error: As in `Remote.client`.
        delivered: Awaited after each callback that was taken.
        task_group: Where what follows from a failure runs.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        retry: Retry | None,
        timeout: float | None,
        on_error: Callable[[CallbackFailure], object] | None,
        delivered: Callable[[], Coroutine[Any, Any, None]],
        task_group: TaskGroup,
    ) -> None:
        self._backend = backend
        self._timeout = timeout
        self._on_error = on_error or log_failure
        self._delivered = delivered
        self._task_group = task_group
        self._open: set[Callback] = set()  # submitted, and not ended
        self._dispatcher: Dispatcher[str, Callback] = Dispatcher(
            self._call, retry=retry, on_error=self._failed, buffer=_BUFFER
        )

    async def __aenter__(self) -> Self:
        await self._dispatcher.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._dispatcher.aclose()
        for callback in self._open:
            callback.error = callback.error or Closed("the remote was closed before the backend took it")
            callback.ended.set()
        self._open.clear()

    def submit(self, callback: Callback) -> None:
        """Have the backend told after all that was submitted before for this container."""
        self._dispatcher.submit(callback.container_id, callback)
        self._open.add(callback)

    async def tell(self, container_id: str, state: StateInfo) -> None:
        """Tell the backend, and return when it has taken it. The container must be locked.

        From inside a callback for the same container it is told at once: it would otherwise wait for itself.

        Raises:
            Exception: Whatever the backend raised, in the end.
            RuntimeError: It cancelled itself.
            Closed: The remote was closed meanwhile.
        """
        callback = Callback(container_id, state, locked=True)
        if self.inside(container_id):
            await self._attempt(callback)
            return
        self.submit(callback)
        try:
            await callback.ended.wait()
        except BaseException:
            self._dispatcher.withdraw(container_id, callback)
            self._open.discard(callback)
            raise
        error = callback.error
        if isinstance(error, asyncio.CancelledError):  # raised as it is, it would say that we are cancelled
            message = f"state_changed({container_id!r}, {state.state!r}) cancelled itself"
            raise RuntimeError(message) from error  # noqa: TRY004 - it is not about types
        if error is not None:
            raise error

    def inside(self, container_id: str) -> bool:
        """Return whether the caller was called, directly or not, by a running callback for this container."""
        return any(turn.container_id == container_id and not turn.over for turn in self._turns())

    def locked_inside(self, container_id: str) -> bool:
        """Return whether that callback keeps the container locked until it returns."""
        return any(t.container_id == container_id and t.locked and not t.over for t in self._turns())

    def _turns(self) -> list[_Turn]:
        return [turn for turn in _turns.get() if turn.owner is self]

    async def drain(self, container_id: str) -> None:
        """Return when nothing is to be told of a container; at once from inside its callback."""
        if not self.inside(container_id):
            await self._dispatcher.drain(container_id)

    async def _call(self, callback: Callback) -> None:
        prepare, callback.prepare = callback.prepare, None
        if prepare is not None:
            await prepare()
        await self._attempt(callback)
        await self._finish(callback)
        await self._delivered()

    async def _finish(self, callback: Callback) -> None:
        # Also when all is being closed: what was told is not told again after the next start.
        with anyio.move_on_after(_FINISH_TIMEOUT, shield=True):
            if callback.finish is not None:
                await callback.finish()
        callback.ended.set()
        self._open.discard(callback)

    async def _attempt(self, callback: Callback) -> None:
        turn = _Turn(self, callback.container_id, callback.locked)
        token = _turns.set((*_turns.get(), turn))
        try:
            with anyio.move_on_after(self._timeout) as scope:
                await awaited(
                    "state_changed", self._backend.state_changed(callback.container_id, callback.state)
                )
            if scope.cancelled_caught:
                raise DeadlineExceeded(
                    f"state_changed({callback.container_id!r}, {callback.state.state!r}) had not returned after "
                    f"{self._timeout:g} s"
                )
        finally:
            turn.over = True
            _turns.reset(token)

    def _failed(self, failure: CallbackFailure) -> None:
        callback = failure.item
        try:
            self._on_error(failure)
        finally:
            if failure.retry_in is None:
                callback.error = failure.error
                self._task_group.start_soon(self._finish, callback)
