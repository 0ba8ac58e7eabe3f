"""Faults of event delivery: events that are lost, late, doubled, changed or out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from containerd_aio.testing.fake.filters import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.events.decode import EnvelopeView
    from containerd_aio.testing.fake.exchange import Deliver, Exchange


Act = Callable[["EventFault", "EnvelopeView", "Deliver"], None]
"""What a fault does with an event."""


class EventFault:
    """A fault that is in force for the events that match a filter, until it is removed or has hit often enough.

    Made by the methods of `FakeContainerd`. As a context manager it is removed at the end of the block.

    Attributes:
        hits: How many events it took.
        held: Events that it keeps back; see `FakeContainerd.hold_events`.
    """

    def __init__(
        self,
        exchange: Exchange,
        filters: Sequence[str],
        *,
        times: int | None,
        act: Act,
    ) -> None:
        self._exchange = exchange
        self._filters = parse(filters)
        self._times = times
        self._act = act
        self._deliver: Deliver = exchange.deliver
        self.hits = 0
        self.held: list[EnvelopeView] = []
        exchange.interceptors.append(self._intercept)

    def _intercept(self, view: EnvelopeView, deliver: Deliver) -> bool:
        if self._times is not None and self.hits >= self._times:
            return False
        if self._filters and not any(f is not None and f.matches(view) for f in self._filters):
            return False
        self.hits += 1
        self._deliver = deliver
        self._act(self, view, deliver)
        return True

    def release(self, *, reverse: bool = False) -> None:
        """Deliver what is held, oldest first or, with `reverse`, latest first; the fault stays in force."""
        held, self.held = self.held, []
        for view in reversed(held) if reverse else held:
            self._deliver(view)

    def remove(self) -> None:
        """End the fault; what is still held is lost."""
        if self._intercept in self._exchange.interceptors:
            self._exchange.interceptors.remove(self._intercept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def swallow(fault: EventFault, view: EnvelopeView, deliver: Deliver) -> None:
    """Lose the event."""


def hold(fault: EventFault, view: EnvelopeView, deliver: Deliver) -> None:  # noqa: ARG001
    """Keep the event until `EventFault.release`."""
    fault.held.append(view)


def repeat(times: int) -> Act:
    """Deliver the event several times."""

    def act(fault: EventFault, view: EnvelopeView, deliver: Deliver) -> None:  # noqa: ARG001
        for _ in range(times):
            deliver(view)

    return act


def late(seconds: float) -> Act:
    """Deliver the event later."""

    def act(fault: EventFault, view: EnvelopeView, deliver: Deliver) -> None:  # noqa: ARG001
        asyncio.get_running_loop().call_later(seconds, deliver, view)

    return act
