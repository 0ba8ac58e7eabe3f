"""Sentinels: events of our own that show that what is published comes back on the event stream.

Nobody else subscribes to their topic, and consumers never see them. The payload is Empty, which every tool can print.
"""

from __future__ import annotations

from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio._transport.connections import NamespacedChannel
from containerd_aio.api.containerd.services.events.v1 import EventsStub, PublishRequest
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_aio._transport.connections import Connections

TOPIC = "/containerd-aio/sync/"
NAMESPACE = "containerd-aio"
# Seconds between two of a handshake: one published before containerd has registered the subscription is lost.
INTERVAL = 0.02


class Sentinels:
    """Publishes sentinels and knows them again.

    Args:
        connections: The connections of the client.
        patience: Seconds within which one must come back.
    """

    def __init__(self, connections: Connections, *, patience: float) -> None:
        channel: Any = NamespacedChannel(connections, connections.rpc, NAMESPACE)
        self._publisher = EventsStub(channel)
        self._patience = patience
        self._awaited: dict[str, anyio.Event] = {}

    async def handshake(self) -> None:
        """Publish until one comes back: containerd never says when a subscription has begun.

        Raises:
            DeadlineExceeded: None came back.
            ContainerdError: One could not be published.
        """
        with self._expected("the event stream stood, but nothing published came back on it") as (topic, echo):
            while not echo.is_set():
                await self._publish(topic)
                with anyio.move_on_after(INTERVAL):
                    await echo.wait()

    async def round_trip(self) -> None:
        """Return when one published now has come back, or `interrupt` was called.

        Raises:
            DeadlineExceeded: It did not come back.
            ContainerdError: It could not be published.
        """
        with self._expected("what was published did not come back on the event stream") as (topic, echo):
            await self._publish(topic)
            await echo.wait()

    def take(self, topic: str) -> bool:
        """Take the topic of an event; return whether it is a sentinel, whoever published it."""
        if not topic.startswith(TOPIC):
            return False
        echo = self._awaited.get(topic)
        if echo is not None:
            echo.set()
        return True

    def interrupt(self) -> None:
        """Wake who waits for a sentinel: the stream on which it would have come is gone."""
        for echo in self._awaited.values():
            echo.set()

    @contextmanager
    def _expected(self, failure: str) -> Iterator[tuple[str, anyio.Event]]:
        topic, echo = TOPIC + token_hex(16), anyio.Event()
        self._awaited[topic] = echo
        try:
            with anyio.fail_after(self._patience) as scope:
                yield topic, echo
        except TimeoutError:
            if not scope.cancelled_caught:
                raise
            raise DeadlineExceeded(f"{failure} within {self._patience:g} s") from None
        finally:
            del self._awaited[topic]

    async def _publish(self, topic: str) -> None:
        await self._publisher.publish(
            PublishRequest(topic=topic, event=AnyMessage(type_url="google.protobuf.Empty")),
            timeout=self._patience,
        )
