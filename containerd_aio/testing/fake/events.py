"""containerd.services.events.v1.Events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from containerd_aio.api.containerd.services.events.v1 import (
    EventsBase,
    ForwardRequest,
    PublishRequest,
    SubscribeRequest,
)
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.errors import InvalidArgument
from containerd_aio.testing.fake.call import identifier_fault, refuse, required_namespace
from containerd_aio.testing.fake.clock import to_timestamp
from containerd_aio.testing.fake.filters import describe_failure

if TYPE_CHECKING:
    from containerd_aio.testing.fake.world import World

_FRAME = 1 << 14


class EventsService(EventsBase):
    """Publishing and subscribing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._exchange = world.exchange

    def __mapping__(self) -> dict[str, Handler]:
        """Subscribe needs the stream itself: its events are encoded already, and it must end at once when cancelled."""
        return super().__mapping__() | {
            "/containerd.services.events.v1.Events/Subscribe": Handler(
                self._subscribe, Cardinality.UNARY_STREAM, SubscribeRequest, Envelope
            )
        }

    async def publish(self, message: PublishRequest) -> Empty:
        """Publish an event in the caller's namespace."""
        try:
            namespace = required_namespace()
        except GRPCError as exc:
            raise GRPCError(exc.status, f"failed publishing event: {exc.message}") from exc
        _check_topic(message.topic)
        self._exchange.publish_any(namespace, message.topic, message.event)
        return Empty()

    async def forward(self, message: ForwardRequest) -> Empty:
        """Publish an envelope as it is."""
        envelope = message.envelope or Envelope()
        fault = identifier_fault(envelope.namespace)
        if fault:
            raise refuse(Status.INVALID_ARGUMENT, f"event envelope has invalid namespace: {fault}")
        _check_topic(envelope.topic)
        if envelope.timestamp is None:
            if self._world.release.forward_needs_time:
                raise refuse(Status.INVALID_ARGUMENT, "timestamp must be set on forwarded event")
            envelope.timestamp = to_timestamp(0)
        self._exchange.forward(envelope)
        return Empty()

    async def _subscribe(self, stream: Any) -> None:
        request = await stream.recv_message()
        try:
            subscriber = self._exchange.subscribe(request.filters)
        except InvalidArgument as exc:
            raise _bad_filter(exc) from exc
        try:
            while batch := await subscriber.take():
                for frame in _frames(batch):
                    if not stream._send_initial_metadata_done:  # noqa: SLF001
                        await stream.send_initial_metadata()
                    # Several messages in one frame, which a busy daemon's kernel makes of them as well.
                    await stream._stream.send_data(frame)  # noqa: SLF001
        finally:
            self._exchange.unsubscribe(subscriber)


def _frames(messages: list[bytes]) -> list[bytes]:
    frames, current, size = [], [], 0
    for message in messages:
        current += [b"\0", len(message).to_bytes(4, "big"), message]
        size += len(message) + 5
        if size >= _FRAME:
            frames.append(b"".join(current))
            current, size = [], 0
    return [*frames, b"".join(current)] if current else frames


def _bad_filter(exc: InvalidArgument) -> GRPCError:
    text = f"subscription error: failed parsing subscription filters: {describe_failure(exc)}"
    return GRPCError(Status.UNKNOWN, text)


def _check_topic(topic: str) -> None:
    def fault(text: str) -> GRPCError:
        return refuse(Status.INVALID_ARGUMENT, f'envelope topic "{topic}": {text}')

    if not topic:
        raise fault("must not be empty")
    if topic[0] != "/":
        raise fault("must start with '/'")
    if topic == "/":
        raise fault("must have at least one component")
    for component in topic[1:].split("/"):
        text = identifier_fault(component)
        if text:
            raise fault(f'failed validation on component "{component}": {text}')
