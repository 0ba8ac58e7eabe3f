"""Events: every message containerd sends, decoded to its class; garbage never harms; times that are none."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import betterproto2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio import typeurl
from containerd_aio._transport.codec import decode, encode
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.events import ContainerCreateRuntime, TaskIo
from containerd_aio.api.containerd.services.images import v1 as images
from containerd_aio.api.containerd.types import Envelope, Mount
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.api.message_types import MESSAGE_TYPES
from containerd_aio.events.decode import EnvelopeView, decode_envelope
from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
from containerd_aio.events.model import (
    EVENT_CLASSES,
    ContainerCreate,
    ContainerRuntime,
    ContainerUpdate,
    ContentCreate,
    Event,
    Gap,
    ImageCreate,
    Lagged,
    NamespaceCreate,
    RootfsMount,
    SandboxExit,
    SnapshotCommit,
    TaskCreate,
    TaskDelete,
    TaskExecStarted,
    TaskExit,
    TaskIO,
    TaskOOM,
    TaskStart,
    UnknownEvent,
)

AT = Timestamp(seconds=1_795_000_000, nanos=123_456_789)
AT_NS = 1_795_000_000_123_456_789
GO_ZERO_TIME = Timestamp(seconds=-62_135_596_800)
MESSAGES = [name for name in MESSAGE_TYPES if name.startswith("containerd.events.")]
HELPERS = {"containerd.events.TaskIO", "containerd.events.ContainerCreate.Runtime"}


def envelope(
    payload: betterproto2.Message | AnyMessage | None, topic: str = "/tasks/exit", at: Timestamp | None = AT
) -> bytes:
    event = payload if isinstance(payload, AnyMessage | None) else typeurl.pack(payload)
    return encode(Envelope(timestamp=at, namespace="default", topic=topic, event=event))


def event_of(payload: betterproto2.Message | AnyMessage | None, **kwargs: Any) -> Event:
    return decode_envelope(envelope(payload, **kwargs)).event


def names_of(cls: type[Event]) -> tuple[str, ...]:
    """Return the fields that are the class's own."""
    names: tuple[str, ...] = cls.__match_args__
    return names


EXIT = wire.TaskExit(container_id="web", id="exec", pid=42, exit_status=137, exited_at=AT)


# --- every message has its class ----------------------------------------------------------------------------------


def test_every_message_of_the_api_has_a_class_of_its_name() -> None:
    named = {cls.message_name: cls.__name__ for cls in EVENT_CLASSES}
    expected = [*(set(MESSAGES) - HELPERS), *(f"containerd.services.images.v1.Image{v}" for v in ("Create", "Update", "Delete"))]  # fmt: skip
    assert sorted(named) == sorted(expected)
    assert all(name.rpartition(".")[2] == class_name for name, class_name in named.items())


@pytest.mark.parametrize("cls", EVENT_CLASSES, ids=lambda cls: cls.__name__)
def test_fields_are_the_messages_in_its_order(cls: type[Event]) -> None:
    message = type(typeurl.unpack(AnyMessage(type_url=cls.message_name)))
    own = [name.removesuffix("_ns") for name in names_of(cls)]
    numbers = {field.name: getattr(message, "_betterproto").meta_by_field_name[field.name].number for field in fields(message)}  # noqa: B009  # fmt: skip
    assert own == sorted(numbers, key=numbers.__getitem__)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (EXIT, TaskExit("web", "exec", 42, 137, AT_NS)),
        (wire.TaskStart(container_id="web", pid=42), TaskStart("web", 42)),
        (wire.TaskOom(container_id="web"), TaskOOM("web")),
        (wire.TaskExecStarted(container_id="web", exec_id="e", pid=9), TaskExecStarted("web", "e", 9)),
        (
            wire.TaskDelete(container_id="web", pid=1, exit_status=2, exited_at=AT, id="e"),
            TaskDelete("web", 1, 2, AT_NS, "e"),
        ),
        (
            wire.TaskCreate(
                container_id="web",
                bundle="/run/b",
                rootfs=[Mount(type="overlay", source="o", target="t", options=["ro", "x=y"])],
                io=TaskIo(stdin="0", stdout="1", stderr="2", terminal=True),
                checkpoint="c",
                pid=7,
            ),
            TaskCreate(
                "web",
                "/run/b",
                (RootfsMount("overlay", "o", "t", ("ro", "x=y")),),
                TaskIO("0", "1", "2", terminal=True),
                "c",
                7,
            ),
        ),
        (wire.TaskCreate(container_id="web"), TaskCreate("web")),
        (
            wire.ContainerCreate(
                id="c",
                image="i",
                runtime=ContainerCreateRuntime(name="r", options=AnyMessage(type_url="t", value=b"v")),
            ),
            ContainerCreate("c", "i", ContainerRuntime("r", "t", b"v")),
        ),
        (
            wire.ContainerCreate(id="c", runtime=ContainerCreateRuntime(name="r")),
            ContainerCreate("c", "", ContainerRuntime("r")),
        ),
        (
            wire.ContainerUpdate(id="c", image="i", labels={"a": "b", "": ""}, snapshot_key="s"),
            ContainerUpdate("c", "i", {"a": "b", "": ""}, "s"),
        ),
        (images.ImageCreate(name="n", labels={"a": "b"}), ImageCreate("n", {"a": "b"})),
        (wire.NamespaceCreate(name="n"), NamespaceCreate("n")),
        (wire.ContentCreate(digest="d", size=1 << 40), ContentCreate("d", 1 << 40)),
        (wire.SnapshotCommit(key="k", name="n", snapshotter="s"), SnapshotCommit("k", "n", "s")),
        (wire.SandboxExit(sandbox_id="s", exit_status=3, exited_at=AT), SandboxExit("s", 3, AT_NS)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_decoded(message: betterproto2.Message, expected: Event) -> None:
    event = event_of(message)
    assert type(event) is type(expected)
    names = names_of(type(expected))
    assert [getattr(event, name) for name in names] == [getattr(expected, name) for name in names]
    assert (event.topic, event.namespace, event.origin) == ("/tasks/exit", "default", "live")
    assert event.timestamp_ns == AT_NS
    hash(event)


# --- views --------------------------------------------------------------------------------------------------------


def test_a_payload_is_decoded_when_looked_at_and_once() -> None:
    data = envelope(EXIT)
    view = decode_envelope(data)
    assert (view.namespace, view.topic, view.timestamp_ns) == ("default", "/tasks/exit", AT_NS)
    assert (view.type_url, view.payload, view.encoded) == ("containerd.events.TaskExit", encode(EXIT), data)
    assert view._event is None
    assert view.event is view.event


def test_raw_is_the_message_as_it_came() -> None:
    event = event_of(EXIT)
    assert event.raw == decode(Envelope, envelope(EXIT))
    assert TaskExit("web").raw is None


def test_a_prefix_of_the_type_url_is_ignored() -> None:
    event = event_of(
        AnyMessage(type_url="type.googleapis.com/containerd.events.TaskExit", value=encode(EXIT))
    )
    assert isinstance(event, TaskExit)
    assert event.container_id == "web"


def test_both_forms_of_match() -> None:
    match event_of(EXIT):
        case TaskExit(container_id="web", exit_status=code):
            assert code == 137
        case _:
            pytest.fail("keywords did not match")
    match event_of(EXIT):
        case TaskExit("web", "exec", pid):
            assert pid == 42
        case _:
            pytest.fail("positions did not match")


def test_events_are_frozen_slotted_and_compared_by_what_they_say() -> None:
    event = event_of(EXIT)
    with pytest.raises(FrozenInstanceError):
        event.topic = "/other"  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    assert event == event_of(EXIT)
    assert event != event_of(EXIT, topic="/tasks/other")
    assert event == TaskExit(
        "web", "exec", 42, 137, AT_NS, topic="/tasks/exit", namespace="default", timestamp_ns=AT_NS
    )


# --- what can't be understood -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_url", "value"),
    [
        ("com.example.Unheard", b"\x0a\x03abc"),
        ("google.protobuf.Empty", b""),
        ("", b""),
        ("containerd.events.TaskExit", b"\x0a\x7fcut short"),
        ("containerd.events.TaskExit", b"\x0a\x02\xff\xfe"),
        ("containerd.events.TaskExit", b"\x18" + b"\xff" * 10 + b"\x01"),
        ("containerd.events.TaskStart", b"\x0a\x7fcut short"),
        ("containerd.events.TaskIO", b""),
        ("containerd.services.tasks.v1.GetRequest", b""),
    ],
)
def test_unknown_types_and_broken_payloads_are_kept_as_they_are(type_url: str, value: bytes) -> None:
    event = event_of(AnyMessage(type_url=type_url, value=value))
    assert isinstance(event, UnknownEvent)
    assert (event.type_url, event.payload, event.topic) == (type_url, value, "/tasks/exit")


def test_an_envelope_without_event_is_unknown() -> None:
    assert event_of(None) == UnknownEvent(topic="/tasks/exit", namespace="default", timestamp_ns=AT_NS)
    assert decode_envelope(b"").event == UnknownEvent()


def test_fields_of_later_releases_are_ignored() -> None:
    view = decode_envelope(envelope(AnyMessage(type_url="containerd.events.TaskExit", value=encode(EXIT) + b"\x7a\x01x")) + b"\x7a\x01x")  # fmt: skip
    assert isinstance(view.event, TaskExit)
    assert view.event.exit_status == 137


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a", "cut short"),
        (b"\x1a\x05/a", "reaches over the end"),
        (b"\x1a\x02\xff\xfe", "utf-8"),
        (b"\x22\x03\x0a\x7fx", "reaches over the end"),
        (b"\x0b", "wire type 3"),
        (b"GET / HTTP/1.1\r\n", "not an event envelope"),
        (b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "longer than 64 bits"),
    ],
)
def test_garbage_is_a_value_error_that_says_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match="not an event envelope") as caught:
        decode_envelope(data)
    assert reason in str(caught.value)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with a few bytes overwritten, and perhaps cut short."""
    edits = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)

    def apply(drawn: tuple[list[tuple[int, int]], int]) -> bytes:
        out = bytearray(data)
        for place, byte in drawn[0]:
            out[place] = byte
        return bytes(out[: drawn[1]])

    return st.tuples(edits, st.one_of(st.just(len(data)), st.integers(0, len(data)))).map(apply)


@given(st.one_of(st.binary(max_size=80), mutated(envelope(EXIT))))
def test_the_short_way_through_an_envelope_reads_what_the_general_decoder_reads(data: bytes) -> None:
    try:
        expected = decode(Envelope, data)
    except ValueError:
        with pytest.raises(ValueError, match="not an event envelope"):
            decode_envelope(data)
        return
    view = decode_envelope(data)
    assert (view.namespace, view.topic) == (expected.namespace, expected.topic)
    payload = expected.event or AnyMessage()
    assert (view.type_url, view.payload) == (payload.type_url, payload.value)
    at = expected.timestamp or Timestamp()
    valid = 0 <= at.seconds < 253_402_300_800 and 0 <= at.nanos < 10**9
    assert view.timestamp_ns == (at.seconds * 10**9 + at.nanos if valid else 0)
    assert isinstance(view.event, Event)


@given(mutated(encode(EXIT)))
def test_the_short_way_through_an_exit_reads_what_the_general_decoder_reads(data: bytes) -> None:
    event = EnvelopeView("ns", "/tasks/exit", 0, "containerd.events.TaskExit", data).event
    try:
        message = decode(wire.TaskExit, data)
    except ValueError:
        assert isinstance(event, UnknownEvent)
        return
    assert isinstance(event, TaskExit)
    assert (event.container_id, event.id) == (message.container_id, message.id)
    assert (event.pid, event.exit_status) == (message.pid, message.exit_status)


# --- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    [
        None,
        Timestamp(),
        GO_ZERO_TIME,
        Timestamp(seconds=-1, nanos=500),
        Timestamp(seconds=-(1 << 63)),
        Timestamp(seconds=(1 << 63) - 1, nanos=999_999_999),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=1_795_000_000, nanos=-1),
        Timestamp(seconds=1_795_000_000, nanos=1_000_000_000),
    ],
)
def test_e16_times_that_are_none(at: Timestamp | None) -> None:
    for message in (
        wire.TaskExit(container_id="c", exited_at=at),
        wire.TaskDelete(container_id="c", exited_at=at),
        wire.SandboxExit(sandbox_id="c", exited_at=at),
    ):
        event = event_of(message, at=at)
        assert isinstance(event, TaskExit | TaskDelete | SandboxExit)
        assert (event.exited_at_ns, event.exited_at) == (None, None)
        assert (event.timestamp_ns, event.timestamp) == (0, None)
        assert event.to_dict()["event"]["exited_at"] is None
    assert ExitStatus(0, None).exited_at is None


@given(st.integers(1, 253_402_300_799), st.integers(0, 999_999_999))
def test_times_keep_their_nanoseconds(seconds: int, nanos: int) -> None:
    event = event_of(wire.TaskExit(exited_at=Timestamp(seconds=seconds, nanos=nanos)), at=None)
    assert isinstance(event, TaskExit)
    assert event.exited_at_ns == seconds * 10**9 + nanos
    assert event.exited_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        seconds=seconds, microseconds=nanos // 1000
    )
    assert event.to_dict()["event"]["exited_at"] == f"{event.exited_at:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_an_event_as_json() -> None:
    assert json.loads(json.dumps(event_of(EXIT).to_dict())) == {
        "timestamp": "2026-11-18T11:06:40.123456789Z",
        "namespace": "default",
        "topic": "/tasks/exit",
        "type": "containerd.events.TaskExit",
        "origin": "live",
        "event": {
            "container_id": "web",
            "id": "exec",
            "pid": 42,
            "exit_status": 137,
            "exited_at": "2026-11-18T11:06:40.123456789Z",
        },
    }


def test_nested_fields_and_bytes_as_json() -> None:
    mount = Mount(type="bind", source="/a", options=["ro"])
    create = event_of(wire.TaskCreate(container_id="web", rootfs=[mount], io=TaskIo(stdout="1")))
    assert create.to_dict()["event"] == {
        "container_id": "web",
        "bundle": "",
        "rootfs": [{"type": "bind", "source": "/a", "target": "", "options": ["ro"]}],
        "io": {"stdin": "", "stdout": "1", "stderr": "", "terminal": False},
        "checkpoint": "",
        "pid": 0,
    }
    assert ContainerUpdate("c", labels={"a": "b"}).to_dict()["event"]["labels"] == {"a": "b"}
    unknown = UnknownEvent("com.example.X", b"\xff\x00")
    assert unknown.to_dict()["type"] == "com.example.X"
    assert unknown.to_dict()["event"] == {"payload": "/wA="}


def test_markers_as_json() -> None:
    east = timezone(timedelta(hours=2))
    gap = Gap(datetime(2026, 11, 22, 12, tzinfo=east), datetime(2026, 11, 22, 10, 0, 1, tzinfo=UTC), "lost")
    assert gap.to_dict() == {
        "gap": {
            "since": "2026-11-22T10:00:00.000000Z",
            "until": "2026-11-22T10:00:01.000000Z",
            "reason": "lost",
        }
    }
    assert Lagged(3).to_dict() == {"lagged": {"missed": 3}}


# --- exits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(0), "exit 0"),
        (ExitStatus(137, oom_killed=True), "exit 137 (OOM killed)"),
        (ExitStatus(137, oom_known=False), "exit 137 (OOM not known)"),
        (ExitStatus(UNKNOWN_EXIT_STATUS, unknown=True, source="missing"), "exit unknown (missing)"),
        (ExitStatus(255), "exit 255"),
    ],
)
def test_an_exit_status_in_words(status: ExitStatus, text: str) -> None:
    assert str(status) == text


def test_an_unknown_exit_is_no_success() -> None:
    assert ExitStatus(0).success
    assert not ExitStatus(0, unknown=True).success
    assert not ExitStatus(7).success
    assert ExitStatus(7, AT_NS).exited_at == datetime(2026, 11, 18, 11, 6, 40, 123456, tzinfo=UTC)
