"""The fake's event exchange: what is published goes to every subscriber whose filters it matches.

As in containerd: subscribers of every namespace see the events of all namespaces, each has a queue without bounds, and
nobody is told when a subscription has begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import anyio

from containerd_aio import typeurl
from containerd_aio._transport.codec import encode
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.events.decode import EnvelopeView, decode_envelope
from containerd_aio.testing.fake.clock import to_timestamp
from containerd_aio.testing.fake.filters import parse

if TYPE_CHECKING:
    from betterproto2 import Message
    from grpclib.exceptions import GRPCError

    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.events.filters import Filter
    from containerd_aio.testing.fake.clock import Clock

_REMEMBERED = 10_000

Deliver = Callable[[EnvelopeView], None]
Interceptor = Callable[[EnvelopeView, Deliver], bool]
"""Looks at an event on its way to the subscribers. It returns True when it has taken it, to be delivered later or never."""


class Subscriber:
    """One subscription.

    Attributes:
        pending: Encoded envelopes that were not sent yet.
    """

    def __init__(self, filters: Sequence[Filter | None]) -> None:
        self._filters = filters
        self.pending: deque[bytes] = deque()
        self._ended = False
        self._error: GRPCError | None = None
        self._wakeup = anyio.Event()

    def offer(self, view: EnvelopeView) -> None:
        """Queue the event if it matches."""
        assert view.encoded is not None
        if not self._filters or any(f is not None and f.matches(view) for f in self._filters):
            self.pending.append(view.encoded)
            self._wakeup.set()

    def end(self, error: GRPCError | None) -> None:
        """End it after what is pending: in good order, or with an error."""
        self._ended, self._error = True, error
        self._wakeup.set()

    async def take(self) -> list[bytes]:
        """Return what is pending, waiting for the first; nothing at the end.

        Raises:
            GRPCError: It was ended with one.
        """
        while not self.pending:
            if self._error is not None:
                raise self._error
            if self._ended:
                return []
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
        taken = list(self.pending)
        self.pending.clear()
        return taken


class Exchange:
    """Takes events and hands them out.

    Args:
        clock: Tells the time of events.

    Attributes:
        interceptors: What may swallow, delay, double or change events before they are delivered, first one first.
        subscribers: The subscriptions.
        published: The events that were published last, whether or not they were delivered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.interceptors: list[Interceptor] = []
        self.subscribers: set[Subscriber] = set()
        self.published: deque[EnvelopeView] = deque(maxlen=_REMEMBERED)
        self._changed = anyio.Event()

    def subscribe(self, filters: Iterable[str]) -> Subscriber:
        """Add a subscription.

        Raises:
            InvalidArgument: A filter is not valid.
        """
        subscriber = Subscriber(parse(filters))
        self.subscribers.add(subscriber)
        self._wake()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """End a subscription."""
        self.subscribers.discard(subscriber)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until_subscribed(self, count: int) -> None:
        """Wait until there are exactly so many subscriptions."""
        while len(self.subscribers) != count:
            await self._changed.wait()

    def publish(self, namespace: str, topic: str, event: Message, *, at_ns: int | None = None) -> None:
        """Publish an event of the daemon or of a shim."""
        self.publish_any(namespace, topic, typeurl.pack(event), at_ns=at_ns)

    def publish_any(
        self, namespace: str, topic: str, event: AnyMessage | None, *, at_ns: int | None = None
    ) -> None:
        """Publish an event that is packed already, at the given time or now."""
        at = to_timestamp(self._clock.now_ns() if at_ns is None else at_ns)
        self.forward(Envelope(timestamp=at, namespace=namespace, topic=topic, event=event))

    def forward(self, envelope: Envelope) -> None:
        """Publish an envelope as it is."""
        view = decode_envelope(encode(envelope))
        self.published.append(view)
        self._pass_on(view, 0)

    def _pass_on(self, view: EnvelopeView, position: int) -> None:
        for n, interceptor in enumerate(self.interceptors[position:], position):
            if interceptor(view, lambda later, n=n: self._pass_on(later, n + 1)):  # type: ignore[misc]
                return
        self.deliver(view)

    def deliver(self, view: EnvelopeView) -> None:
        """Hand an event to the subscribers, past the interceptors."""
        for subscriber in self.subscribers:
            subscriber.offer(view)
