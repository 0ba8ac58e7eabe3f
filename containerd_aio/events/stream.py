"""One Subscribe call, for as long as it lasts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from grpclib.const import Cardinality

from containerd_aio.api.containerd.services.events.v1 import SubscribeRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from containerd_aio._transport.channel import Channel

SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"


class Envelopes(Protocol):
    """Envelopes in their wire form, in the order in which containerd sent them."""

    async def recv_encoded(self) -> list[bytes]:
        """Return all that have arrived, waiting for the first; none when the daemon has ended the stream."""


@asynccontextmanager
async def subscribe(channel: Channel) -> AsyncIterator[Envelopes]:
    """Subscribe to every event of the daemon, of all namespaces.

    Entering says only that the request was sent: containerd never acknowledges a subscription, and an event published
    now may still be missed. The hub makes sure with a sentinel. On leaving, the subscription is cancelled.

    Args:
        channel: A connection of its own; see `Connections.events`.

    Raises:
        ConnectError: There is no connection to be had.
        Unavailable: The connection broke (raised while iterating).
    """
    async with channel.request(SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, bytes) as stream:
        await stream.send_message(SubscribeRequest(), end=True)
        yield stream
