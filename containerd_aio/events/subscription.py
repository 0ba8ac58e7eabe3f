"""What a consumer holds: an async iterator over events that never slows the hub down."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

import anyio

from containerd_aio.errors import Closed, ContainerdError, InvalidArgument, ResourceExhausted
from containerd_aio.events.filters import FilterSet
from containerd_aio.events.model import ContainerCreate, ContainerDelete, ContainerUpdate, Event, Gap, Lagged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from containerd_aio.events.decode import EnvelopeView
    from containerd_aio.events.hub import EventHub
    from containerd_aio.events.labels import Labels

Overflow = Literal["drop_oldest", "block_never", "close"]
"""What happens to a subscriber whose buffer is full; others, the hub and containerd never wait for it.

* ``drop_oldest``: it loses its oldest events, and a `Lagged` stands in their place: the newest say how things are now.
* ``block_never``: it keeps what it has and misses what comes, and a `Lagged` stands in its place: the oldest say how
  things came about.
* ``close``: it ends. What was buffered can still be read, then `ResourceExhausted` says how many events were missed.
"""

_Item: TypeAlias = "EnvelopeView | Event"


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

    def __init__(
        self,
        hub: EventHub,
        filters: Sequence[str],
        *,
        namespace: str | None,
        buffer: int,
        overflow: Overflow = "drop_oldest",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        if buffer < 1:
            raise InvalidArgument(f"buffer is {buffer}; a subscription needs room for at least one event")
        if overflow not in get_args(Overflow):
            raise InvalidArgument(f"overflow is {overflow!r}; it is one of {', '.join(get_args(Overflow))}")
        self._hub = hub
        self._filter = FilterSet(filters) if filters else None
        self._namespace = namespace
        self._labels = _checked(labels) if labels is not None else None
        self._capacity = buffer
        self._overflow = overflow
        # With the labels to come, by which it is to be judged, or without.
        self._items: deque[tuple[_Item | Gap | Lagged, Labels | None]] = deque()
        self._missed = 0
        self._missed_gap: Gap | None = None
        self._wakeup = anyio.Event()
        self._closed = False
        self._overflowed = False
        self._error: ContainerdError | None = None
        self.delivered = 0
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Items waiting to be read; with labels, some may turn out not to be selected."""
        return len(self._items)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Wait until the subscription is live.

        Raises:
            ConnectError: containerd can't be reached.
            Closed: It was closed before.
        """
        if self._closed:
            raise Closed("this subscription was closed; client.events() makes another")
        await self._hub.ready()
        self._hub.attach(self)
        if self._labels is not None:
            self._hub.labels.use(self._namespace, self._wake)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self, error: ContainerdError | None = None) -> None:
        """End the subscription: what is buffered can still be read, then the iteration ends.

        Args:
            error: What the iteration is to raise at its end.
        """
        self._error = self._error or error
        self._hub.detach(self)
        if self._labels is not None:
            self._hub.labels.leave(self._wake)
        self._closed = True
        self._wake()

    # --- reading ------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Gap | Lagged:
        """Return the next item.

        Raises:
            ResourceExhausted: The buffer was full, and the subscription was to end then.
            ContainerdError: The daemon refuses subscriptions for good.
            StopAsyncIteration: The subscription, or the client, was closed.
        """
        while True:
            item = self._next()
            if item is not None:
                self.delivered += 1
                return item
            if self._overflowed and not self._items:
                self.close()
                raise ResourceExhausted(
                    f"the subscription ended because {self._capacity} events waited to be read; "
                    f"{self._missed} events were missed"
                )
            if self._closed:
                raise StopAsyncIteration if self._error is None else self._error.with_traceback(None)
            if self._wakeup.is_set():
                self._wakeup = anyio.Event()
            await self._wakeup.wait()

    def _next(self) -> Event | Gap | Lagged | None:
        """Take the next item out of the buffer; None when there is none that can be delivered yet."""
        if self._overflow != "block_never" or not self._items:
            marker = self._marker()
            if marker is not None:
                return marker
        while self._items:
            item, labels = self._items[0]
            if labels is not None and not labels.settled and not self._closed:
                return None
            self._items.popleft()
            if labels is None or self._selects(labels):
                return item if isinstance(item, Event | Gap | Lagged) else item.event
        return None

    def _marker(self) -> Gap | Lagged | None:
        """Take what is to be said of what was missed, and not yet said."""
        if self._missed and not self._overflowed:
            missed, self._missed = self._missed, 0
            return Lagged(missed)
        gap, self._missed_gap = self._missed_gap, None
        return gap

    # --- for the hub --------------------------------------------------------------------------------------------------

    def may_want(self, route: EnvelopeView) -> bool:
        """Tell whether events of this namespace and topic are to be offered."""
        if self._namespace is not None and route.namespace != self._namespace:
            return False
        return self._filter is None or self._filter.may_match(route)

    def offer(self, item: _Item) -> None:
        """Take an event from the hub, if it matches."""
        if self._namespace is not None and item.namespace != self._namespace:
            return
        if self._filter is not None and not self._filter.matches(item):
            return
        if self._labels is None:
            self._put(item)
            return
        container_id = _container_of(item)
        if container_id is None:
            return
        labels = self._hub.labels.of(item.namespace, container_id)
        if not labels.settled:
            self._put(item, labels)
        elif self._selects(labels):
            self._put(item)

    def interrupt(self, gap: Gap) -> None:
        """Take the hub's word that events may have been missed."""
        self._put(gap)

    def _selects(self, labels: Labels) -> bool:
        """Return whether a container with these labels is wanted; one whose labels can't be learnt may be."""
        found = labels.labels
        if found is None or self._labels is None:
            return True
        return all(found.get(name) == value for name, value in self._labels.items())

    def _put(self, item: _Item | Gap, labels: Labels | None = None) -> None:
        full = len(self._items) >= self._capacity
        if full and self._overflow == "drop_oldest":
            self._miss(self._items.popleft()[0])
        elif full or self._overflowed:
            self._overflowed = self._overflow == "close"
            self._miss(item)
            self._wake()
            return
        elif self._overflow == "block_never":
            while (marker := self._marker()) is not None:
                self._items.append((marker, None))
        self._items.append((item, labels))
        self._wake()

    def _miss(self, item: _Item | Gap | Lagged) -> None:
        if not isinstance(item, Gap):
            self._missed += 1
            self.dropped += 1
        elif self._missed_gap is None:
            self._missed_gap = item
        else:
            self._missed_gap = replace(self._missed_gap, until=item.until, reason=item.reason)

    def _wake(self) -> None:
        self._wakeup.set()


def _checked(labels: Mapping[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"label {name!r}: {value!r} is no text; give {{'name': 'value'}}")
    return dict(labels)


def _container_of(item: _Item) -> str | None:
    """Return the id of the container an event is about; None for events about images, content and the like."""
    if not item.topic.startswith(("/tasks/", "/containers/")):
        return None
    event = item if isinstance(item, Event) else item.event
    if isinstance(event, ContainerCreate | ContainerUpdate | ContainerDelete):
        return event.id
    return getattr(event, "container_id", None)
