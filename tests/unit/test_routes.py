"""What is looked at of an event that nobody wants: its namespace and topic, and no more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio import Client, TaskExit
from containerd_aio._transport.codec import decode, encode
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.events import decode as decoding
from containerd_aio.events.decode import EnvelopeView, decode_envelope, route_of
from containerd_aio.events.filters import FilterSet
from containerd_aio.testing import FakeContainerd
from tests.unit.test_event_model import mutated

AT = Timestamp(seconds=1_795_370_661, nanos=123_456_789)
EXIT = wire.TaskExit(container_id="web", id="exec", pid=40_000, exit_status=137, exited_at=AT)


def envelope(message: Any = EXIT, *, namespace: str = "default", topic: str = "/tasks/exit") -> bytes:
    payload = AnyMessage(type_url=f"containerd.events.{type(message).__name__}", value=encode(message))
    return encode(Envelope(timestamp=AT, namespace=namespace, topic=topic, event=payload))


@given(mutated(envelope()))
def test_a_route_is_what_the_whole_envelope_says(data: bytes) -> None:
    route = route_of(data)
    assert route == route_of(data)  # remembered by now
    try:
        whole = decode(Envelope, data)
    except ValueError:
        return
    if route is not None and encode(whole) == data:
        assert route == (whole.namespace, whole.topic)


@given(mutated(encode(EXIT)))
def test_the_short_way_through_an_exit_reads_what_the_general_decoder_reads(payload: bytes) -> None:
    view = EnvelopeView("n", "t", 7, "containerd.events.TaskExit", payload)
    try:
        short = decoding._task_exit(view)
    except UnicodeDecodeError:
        short = None
    if short is not None:
        general = decoding._by_message(view, TaskExit)
        assert short == general
        assert repr(short) == repr(general)
        assert hash(short) == hash(general)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 31))
def test_times_are_read_as_the_general_decoder_reads_them(seconds: int, nanos: int) -> None:
    data = encode(Envelope(timestamp=Timestamp(seconds=seconds, nanos=nanos), namespace="n", topic="/t"))
    expected = seconds * 10**9 + nanos if seconds < 253_402_300_800 and nanos < 10**9 else 0
    assert decode_envelope(data).timestamp_ns == expected


def test_routes_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_ROUTES", 10)
    for n in range(100):
        assert route_of(envelope(topic=f"/t/{n}")) == ("default", f"/t/{n}")
        assert len(decoding._ROUTES) <= 10
    assert route_of(encode(Envelope(namespace="n", topic="/t"))) is None  # no time: the general decoder's
    assert route_of(b"") is None


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], True),
        (['topic=="/t"'], True),
        (['topic=="/u"'], False),
        (['topic=="/t",namespace==n'], True),
        (['topic=="/t",namespace==other'], False),
        (['topic=="/t",event.container_id==c'], True),
        (['topic=="/u",event.container_id==c'], False),
        (["event.container_id==c"], True),
        (['topic=="/u"', "namespace==n"], True),
        (['topic=="/u"', "namespace==other"], False),
        (["topic~=|^/t|"], True),
        (["topic~=|^/u|"], False),
    ],
)
def test_what_namespace_and_topic_alone_tell_a_filter(filters: list[str], expected: bool) -> None:
    assert FilterSet(filters).may_match(EnvelopeView("n", "/t")) is expected


async def test_what_nobody_wants_is_counted_and_what_somebody_wants_from_now_on_is_delivered() -> None:
    async with FakeContainerd() as fake, Client(fake.address) as client:
        async with client.events('topic=="/wanted"') as wanted:
            for topic in ("/wanted", "/unwanted", "/unwanted", "/wanted"):
                await client.publish(topic)
            await client.barrier()
            assert wanted.pending == 2
            assert client.statistics().events == 4
            async with client.events('topic=="/unwanted"') as unwanted:
                await client.publish("/unwanted")
                await client.barrier()
                assert (wanted.pending, unwanted.pending) == (2, 1)
            await client.publish("/unwanted")
            await client.barrier()
            assert (wanted.pending, unwanted.pending) == (2, 1)
            assert client.statistics().events == 6
