"""Calls that must not be given up half-way, and clean-ups that must not go on for ever."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio

from containerd_aio._backoff import Backoff
from containerd_aio.errors import Canceled, ConnectError, DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

# Seconds that a cancelled caller waits for the call to end, and again for it to be undone.
GRACE = 10.0
# Seconds that a clean-up waits for a daemon that is away.
RESTART = 3.0


def is_open(failure: BaseException) -> bool:
    """Return whether, after this failure of a call, it may have been carried out all the same."""
    return isinstance(failure, Canceled | DeadlineExceeded | Unavailable) and not isinstance(
        failure, ConnectError
    )


async def carry_through(
    work: Callable[[], Awaitable[T]],
    *,
    undo: Callable[[], Awaitable[object]] | None = None,
    grace: float = GRACE,
) -> T:
    """Await `work` to its end even when the caller is cancelled meanwhile, and undo it then.

    A daemon whose caller hangs up in the middle of a create may have done it, may have left half of it (a shim's
    socket, a runtime's directory), or may still be doing it. Here the cancellation waits for the outcome.

    Args:
        work: Makes something.
        undo: Removes what `work` made; called only when the caller was cancelled, and not when the daemon refused to
            make anything: what bears the name then is another's. It must not raise. None: it is enough to know.
        grace: Seconds that a cancelled caller waits for `work`, and again for `undo`.

    Returns:
        What `work` returned.
    """
    ended = anyio.Event()
    scope = anyio.CancelScope(shield=True)
    results: list[T] = []
    failures: list[Exception] = []

    async def run() -> None:
        try:
            with scope:
                results.append(await work())
        except Exception as exc:  # noqa: BLE001 - raised again below, in the caller
            failures.append(exc)
        finally:
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            scope.deadline = anyio.current_time() + grace
            with anyio.CancelScope(shield=True):
                await ended.wait()
                if undo is not None and (not failures or is_open(failures[0])):
                    with anyio.move_on_after(grace):
                        await undo()
            raise
    if failures:
        raise failures[0]
    return results[0]


async def through_a_restart(work: Callable[[], Awaitable[T]]) -> T:
    """Await `work`, again and again for `RESTART` seconds while the daemon is away: it may be restarting.

    Args:
        work: Removes something; done a second time it does no harm.
    """
    backoff, deadline = Backoff(), anyio.current_time() + RESTART
    while True:
        try:
            return await work()
        except Unavailable:
            delay = backoff.next()
            if anyio.current_time() + delay > deadline:
                raise
            await anyio.sleep(delay)


@contextmanager
def cleaning_up(what: str, *, within: float) -> Iterator[None]:
    """Shield a block that removes something from cancellation, for so many seconds.

    Args:
        what: What is removed, for the message.
        within: Seconds it may take.

    Raises:
        DeadlineExceeded: It takes longer. Nobody knows how far it came.
    """
    with anyio.move_on_after(within, shield=True) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineExceeded(
            f"{what} was not removed within {within:g} s, and may be there still: containerd, or the shim of it, does not "
            "answer; remove it when that is back"
        )
