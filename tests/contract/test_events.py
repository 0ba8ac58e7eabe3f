"""Subscribing and publishing, on the bare stream."""

from __future__ import annotations

import anyio
import pytest
from grpclib.const import Cardinality

from containerd_aio import typeurl
from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd.events import TaskExit
from containerd_aio.api.containerd.services.events.v1 import (
    EventsStub,
    ForwardRequest,
    PublishRequest,
    SubscribeRequest,
)
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.errors import ContainerdError
from containerd_aio.events.decode import decode_envelope
from containerd_aio.events.stream import SUBSCRIBE
from tests.contract.backend import Backend, refused

EMPTY = AnyMessage(type_url="google.protobuf.Empty")
LONG = "x" * 77
TOO_LONG = "greater than maximum length (76 characters)"
IDENTIFIER = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"


async def _topics(backend: Backend, *filters: str) -> list[str]:
    """Return the topics of two events, of a known and of an unknown type, that come through `filters`."""
    end = f"/contract/{backend.id()}"
    own = f'topic=="{end}"'
    got: list[str] = []
    channel = Channel(Address.parse(backend.client.address), timeout=10, connect_timeout=5)
    publish = backend.client.services.events.publish
    try:
        async with channel.request(SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, bytes) as stream:
            await stream.send_message(SubscribeRequest(filters=[*filters, own]), end=True)

            async def read_until(topic: str) -> None:
                while topic not in got:
                    batch = await stream.recv_encoded()
                    assert batch, "the stream ended"
                    got.extend(decode_envelope(data).topic for data in batch)

            # Nobody tells when it has begun.
            async with anyio.create_task_group() as group:

                async def knock() -> None:
                    while True:
                        await publish(PublishRequest(topic=end, event=EMPTY))

                group.start_soon(knock)
                await read_until(end)
                group.cancel_scope.cancel()
            await publish(
                PublishRequest(topic="/tasks/exit", event=typeurl.pack(TaskExit(container_id="q", pid=3)))
            )
            await publish(PublishRequest(topic="/other/x", event=EMPTY))
            last = f"/contract/{backend.id()}"
            await publish(PublishRequest(topic=end, event=EMPTY))
            got.append(last)
            while got[-1] != end or got.index(last) == len(got) - 1:
                got.extend(decode_envelope(data).topic for data in await stream.recv_encoded())
    finally:
        channel.close()
    return [topic for topic in got if topic in {"/tasks/exit", "/other/x"}]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["topic~=|^/tasks/|"], ["/tasks/exit"]),
        (['topic=="/tasks/exit"'], ["/tasks/exit"]),
        (["topic~=[bad"], []),
        (["event.container_id==q"], ["/tasks/exit"]),
        (["event.pid==3"], []),
        (["topic"], ["/tasks/exit", "/other/x"]),
        (["foo"], []),
        (["foo!=x"], ["/tasks/exit", "/other/x"]),
        (["namespace==nowhere", 'topic=="/tasks/exit"'], ["/tasks/exit"]),
        (['namespace==nowhere,topic=="/tasks/exit"'], []),
        (["", "topic==x"], ["/tasks/exit", "/other/x"]),
    ],
)
async def test_filters(backend: Backend, filters: list[str], expected: list[str]) -> None:
    assert await _topics(backend, *filters) == expected


@pytest.mark.parametrize(
    "text",
    ["topic==/tasks/exit", "topic=x", "namespace==a b", "namespace==.foo", "topic~=/tasks/.+", "topic==a,"],
)
async def test_invalid_filters_end_the_stream(backend: Backend, text: str) -> None:
    channel = Channel(Address.parse(backend.client.address), timeout=10, connect_timeout=5)
    try:
        with pytest.raises(ContainerdError) as refusal, anyio.fail_after(10):
            async for _ in EventsStub(channel).subscribe(SubscribeRequest(filters=["topic==a", text])):
                raise AssertionError
    finally:
        channel.close()
    assert type(refusal.value).__name__ == "Unknown"
    assert refusal.value.message.startswith(
        "subscription error: failed parsing subscription filters: filters: parse error: ["
    )
    assert refusal.value.message.endswith(": invalid argument")


async def test_subscribers_see_every_namespace(backend: Backend) -> None:
    other = backend.client.namespaced("elsewhere")
    async with backend.client.events(all_namespaces=True) as events:
        await other.publish("/contract/elsewhere")
        with anyio.fail_after(10):
            while (event := await anext(events)).topic != "/contract/elsewhere":  # type: ignore[union-attr]
                pass
        assert event.namespace == "elsewhere"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("topic", "fault"),
    [
        ("", "must not be empty"),
        ("/", "must have at least one component"),
        ("a/b", "must start with '/'"),
        ("/a//b", 'failed validation on component "": identifier must not be empty'),
        ("/a/", 'failed validation on component "": identifier must not be empty'),
        ("/a b", f'failed validation on component "a b": identifier "a b" must match {IDENTIFIER}'),
        ("/-a", f'failed validation on component "-a": identifier "-a" must match {IDENTIFIER}'),
        (
            f"/{LONG}",
            f'failed validation on component "{LONG}": identifier "{LONG}" {TOO_LONG}',
        ),
    ],
)
async def test_topics_are_checked(backend: Backend, topic: str, fault: str) -> None:
    events = backend.client.services.events
    text = f'envelope topic "{topic}": {fault}: invalid argument'
    assert await refused(events.publish(PublishRequest(topic=topic, event=EMPTY))) == (
        "InvalidArgument",
        text,
    )
    now = Timestamp(seconds=5)
    envelope = Envelope(timestamp=now, namespace="fwd", topic=topic, event=EMPTY)
    assert await refused(events.forward(ForwardRequest(envelope=envelope))) == ("InvalidArgument", text)


async def test_forwarding(backend: Backend) -> None:
    events = backend.client.services.events
    async with backend.client.events('topic=="/f/w"', all_namespaces=True) as subscription:
        envelope = Envelope(
            timestamp=Timestamp(seconds=5, nanos=7), namespace="fwd", topic="/f/w", event=EMPTY
        )
        await events.forward(ForwardRequest(envelope=envelope))
        event = await anext(subscription)
        assert (event.namespace, event.timestamp_ns) == ("fwd", 5_000_000_007)  # type: ignore[union-attr]
        envelope.namespace = ""
        assert await refused(events.forward(ForwardRequest(envelope=envelope))) == (
            "InvalidArgument",
            "event envelope has invalid namespace: identifier must not be empty: invalid argument",
        )
        envelope.namespace = "a b"
        assert await refused(events.forward(ForwardRequest(envelope=envelope))) == (
            "InvalidArgument",
            f'event envelope has invalid namespace: identifier "a b" must match {IDENTIFIER}: invalid argument',
        )
        envelope.namespace, envelope.timestamp = "fwd", None
        if backend.release == "1.6":
            assert await refused(events.forward(ForwardRequest(envelope=envelope))) == (
                "InvalidArgument",
                "timestamp must be set on forwarded event: invalid argument",
            )
        else:
            await events.forward(ForwardRequest(envelope=envelope))
            assert (await anext(subscription)).topic == "/f/w"  # type: ignore[union-attr]


async def test_publishing_needs_a_namespace(backend: Backend) -> None:
    channel = Channel(Address.parse(backend.client.address), timeout=10, connect_timeout=5)
    try:
        assert await refused(EventsStub(channel).publish(PublishRequest(topic="/a", event=EMPTY))) == (
            "FailedPrecondition",
            "failed publishing event: namespace is required: failed precondition",
        )
    finally:
        channel.close()
