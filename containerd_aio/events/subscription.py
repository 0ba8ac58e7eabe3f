"""What a consumer holds: an async iterator over events that never slows the hub down."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import anyio

from containerd_aio.errors import Closed, InvalidArgument
from containerd_aio.events.filters import FilterSet
from containerd_aio.events.model import Event, Gap, Lagged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from containerd_aio.events.decode import EnvelopeView
    from containerd_aio.events.hub import EventHub


class Subscription:
    """Events as they come: ``async with client.events(...) as events: async for event in events``.

    Everything containerd published after the ``async with`` was entered is delivered, in its order. Two items in the
    stream are not events: `Gap` says that the connection was away and that what follows with ``origin="resync"`` was
    worked out by comparing; `Lagged` says how many events this subscriber lost by reading too slowly. Others are not
    affected by a slow reader, nor is containerd.

    Attributes:
        delivered: Items handed to the consumer.
        dropped: Events this subscriber lost because its buffer was full.
    """

    def __init__(self, hub: EventHub, filters: Sequence[str], *, namespace: str | None, buffer: int) -> None:
        if buffer < 1:
            raise InvalidArgument(f"buffer is {buffer}; a subscription needs room for at least one event")
        self._hub = hub
        self._filter = FilterSet(filters) if filters else None
        self._namespace = namespace
        self._capacity = buffer
        self._items: deque[EnvelopeView | Event | Gap] = deque()
        self._missed = 0
        self._wakeup = anyio.Event()
        self._closed = False
        self.delivered = 0
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Items waiting to be read."""
        return len(self._items)

    async def __aenter__(self) -> Self:
        """Wait until the subscription is live.

        Raises:
            ConnectError: containerd can't be reached.
        """
        await self._hub.ready()
        self._hub.attach(self)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription: what is buffered can still be read, then the iteration ends."""
        self._hub.detach(self)
        self._closed = True
        self._wakeup.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap | Lagged:
        while True:
            if self._missed:
                missed, self._missed = self._missed, 0
                self.delivered += 1
                return Lagged(missed)
            if self._items:
                item = self._items.popleft()
                self.delivered += 1
                return item if isinstance(item, Event | Gap) else item.event
            if self._closed:
                raise StopAsyncIteration
            self._wakeup = anyio.Event()
            await self._wakeup.wait()

    def offer(self, item: EnvelopeView | Event) -> None:
        """Take an event from the hub; it is dropped when it does not match, or an older one is when there is no room."""
        if self._namespace is not None and item.namespace != self._namespace:
            return
        if self._filter is not None and not self._filter.matches(item):
            return
        self._put(item)

    def interrupt(self, gap: Gap) -> None:
        """Take the hub's word that events may have been missed."""
        self._put(gap)

    def _put(self, item: EnvelopeView | Event | Gap) -> None:
        if len(self._items) >= self._capacity:
            self._items.popleft()
            self._missed += 1
            self.dropped += 1
        self._items.append(item)
        self._wakeup.set()

    def check_open(self) -> None:
        """Raise `Closed` when the subscription has ended."""
        if self._closed:
            raise Closed("the subscription is closed")
