"""Bytes of the event stream to events; payloads only when somebody looks at them.

An envelope holds strings, a time and an ``Any``, and a busy daemon sends thousands a second. What containerd sends is
therefore read by hand-written code (`benchmarks/bench_decode.py` says what that buys); bytes of any other shape, right
or wrong, go to the general decoder, which also says what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from containerd_aio import typeurl
from containerd_aio._transport.codec import decode, read_varint
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.events.event import Event, UnknownEvent
from containerd_aio.events.model import EVENT_CLASSES, ContainerRuntime, RootfsMount, TaskExit, TaskIO
from containerd_aio.events.timestamps import to_ns

E = TypeVar("E", bound=Event)

# Tags: field number << 3 | wire type (2: length and bytes, 0: a number).
_FIELD_1, _FIELD_2, _FIELD_3, _FIELD_4, _FIELD_5 = 0x0A, 0x12, 0x1A, 0x22, 0x2A
_NUMBER_1, _NUMBER_2, _NUMBER_3, _NUMBER_4 = 0x08, 0x10, 0x18, 0x20
_MAX_SIZE = 1 << 14  # of what is read by hand: a length of one or two bytes
_UINT32 = 0xFFFFFFFF
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z


class EnvelopeView:
    """One message of the event stream: where it belongs at once, what it says on demand.

    Attributes:
        namespace: Namespace of the event.
        topic: Topic, such as ``/tasks/exit``.
        timestamp_ns: When it was published, in nanoseconds since 1970 (UTC); 0 when absent.
        type_url: Type of the payload, as sent.
        payload: The encoded payload.
        encoded: The whole encoded envelope.
    """

    __slots__ = ("_event", "encoded", "namespace", "payload", "timestamp_ns", "topic", "type_url")

    def __init__(
        self,
        namespace: str,
        topic: str,
        timestamp_ns: int = 0,
        type_url: str = "",
        payload: bytes = b"",
        encoded: bytes | None = None,
    ) -> None:
        self.namespace = namespace
        self.topic = topic
        self.timestamp_ns = timestamp_ns
        self.type_url = type_url
        self.payload = payload
        self.encoded = encoded
        self._event: Event | None = None

    @property
    def event(self) -> Event:
        """The decoded event; the same object every time."""
        event = self._event
        if event is None:
            event = self._event = _decode_event(self)
        return event

    def __repr__(self) -> str:
        return f"<EnvelopeView {self.namespace} {self.topic} {self.type_url} {len(self.payload)} bytes>"


class _Unusual(Exception):
    """The bytes are not laid out as containerd lays them out."""


def decode_envelope(data: bytes) -> EnvelopeView:
    """Read one ``containerd.types.Envelope``.

    Raises:
        ValueError: `data` is not an envelope; the message names what is wrong.
    """
    namespace = topic = type_url = ""
    payload = b""
    timestamp_ns = pos = 0
    end = len(data)
    try:
        while pos < end:
            tag = data[pos]
            size = data[pos + 1]
            pos += 2
            if size >= 0x80:
                size = size & 0x7F | data[pos] << 7
                pos += 1
            stop = pos + size
            if stop > end or size >= _MAX_SIZE:
                return _decode_unusual_envelope(data)
            if tag == _FIELD_1:
                timestamp_ns = _timestamp(data, pos, stop)
            elif tag == _FIELD_2:
                namespace = data[pos:stop].decode()
            elif tag == _FIELD_3:
                topic = data[pos:stop].decode()
            elif tag == _FIELD_4:
                type_url, payload = _any(data, pos, stop)
            else:
                return _decode_unusual_envelope(data)
            pos = stop
    except (_Unusual, ValueError, IndexError):
        return _decode_unusual_envelope(data)
    return EnvelopeView(namespace, topic, timestamp_ns, type_url, payload, data)


def _any(data: bytes, pos: int, stop: int) -> tuple[str, bytes]:
    """Read a ``google.protobuf.Any`` with its fields in order; an empty value is not sent."""
    middle = pos + 2 + data[pos + 1]
    if middle == stop and data[pos] == _FIELD_1:
        return data[pos + 2 : middle].decode(), b""
    start = middle + 2
    size = data[middle + 1]
    if size >= 0x80:
        size = size & 0x7F | data[start] << 7
        start += 1
    if data[pos] != _FIELD_1 or data[middle] != _FIELD_2 or middle - pos >= 0x82 or start + size != stop:
        raise _Unusual
    return data[pos + 2 : middle].decode(), data[start:stop]


def _timestamp(data: bytes, pos: int, stop: int) -> int:
    """Read a ``google.protobuf.Timestamp`` as nanoseconds."""
    seconds = nanos = 0
    if data[pos] == _NUMBER_1:
        pos += 1
        shift = 0
        while (byte := data[pos]) >= 0x80:
            seconds += (byte - 0x80) << shift
            shift += 7
            pos += 1
        seconds += byte << shift
        pos += 1
    if pos < stop and data[pos] == _NUMBER_2:
        pos += 1
        shift = 0
        while (byte := data[pos]) >= 0x80:
            nanos += (byte - 0x80) << shift
            shift += 7
            pos += 1
        nanos += byte << shift
        pos += 1
    if pos != stop or seconds > _LAST_SECOND or nanos > 999_999_999:
        raise _Unusual
    return seconds * 1_000_000_000 + nanos


def _decode_unusual_envelope(data: bytes) -> EnvelopeView:
    try:
        envelope = decode(Envelope, data)
    except ValueError as exc:
        raise ValueError(f"not an event envelope ({len(data)} bytes): {exc}") from exc
    timestamp, event = envelope.timestamp, envelope.event
    return EnvelopeView(
        envelope.namespace,
        envelope.topic,
        to_ns(timestamp.seconds, timestamp.nanos) if timestamp is not None else 0,
        event.type_url if event is not None else "",
        event.value if event is not None else b"",
        data,
    )


# --- payloads -----------------------------------------------------------------------------------------------------

_CLASSES: dict[str, type[Event]] = {cls.message_name: cls for cls in EVENT_CLASSES}


def _decode_event(view: EnvelopeView) -> Event:
    name = view.type_url.rpartition("/")[2]
    try:
        if name == TaskExit.message_name:
            return _task_exit(view) or _by_message(view, TaskExit)
        cls = _CLASSES.get(name)
        if cls is not None:
            return _by_message(view, cls)
    except ValueError:
        pass  # the bytes are not what the type says
    return _make(UnknownEvent, view, type_url=view.type_url, payload=view.payload)


def _make(cls: type[E], view: EnvelopeView, **own: Any) -> E:
    return cls(
        **own,
        topic=view.topic,
        namespace=view.namespace,
        timestamp_ns=view.timestamp_ns,
        encoded=view.encoded,
    )


def _by_message(view: EnvelopeView, cls: type[E]) -> E:
    """Decode any event: its generated message first, then the fields taken over."""
    message = typeurl.unpack(AnyMessage(type_url=cls.message_name, value=view.payload))
    names: tuple[str, ...] = cls.__match_args__
    own = {name: _READ[name](message) if name in _READ else getattr(message, name) for name in names}
    return _make(cls, view, **own)


def _task_exit(view: EnvelopeView) -> TaskExit | None:
    """Decode the event that everybody waits for in one pass; None when its bytes are not laid out as usual."""
    data = view.payload
    container_id = process_id = ""
    pid = exit_status = exited_at_ns = pos = 0
    end = len(data)
    try:
        while pos < end:
            tag = data[pos]
            value = data[pos + 1]
            pos += 2
            if value >= 0x80:
                value, pos = read_varint(data, pos - 1)
            if tag == _NUMBER_3:
                pid = value
                continue
            if tag == _NUMBER_4:
                exit_status = value
                continue
            stop = pos + value
            if tag == _FIELD_1:
                container_id = data[pos:stop].decode()
            elif tag == _FIELD_2:
                process_id = data[pos:stop].decode()
            elif tag == _FIELD_5:
                exited_at_ns = _timestamp(data, pos, stop)
            else:
                return None
            pos = stop
    except (_Unusual, IndexError):
        return None
    if pos != end or pid > _UINT32 or exit_status > _UINT32:
        return None
    return TaskExit(
        container_id,
        process_id,
        pid,
        exit_status,
        exited_at_ns or None,
        topic=view.topic,
        namespace=view.namespace,
        timestamp_ns=view.timestamp_ns,
        encoded=view.encoded,
    )


def _exited_at_ns(message: Any) -> int | None:
    time = message.exited_at
    return None if time is None else to_ns(time.seconds, time.nanos) or None


def _runtime(message: wire.ContainerCreate) -> ContainerRuntime | None:
    runtime = message.runtime
    if runtime is None:
        return None
    options = runtime.options or AnyMessage()
    return ContainerRuntime(runtime.name, options.type_url, options.value)


def _rootfs(message: wire.TaskCreate) -> tuple[RootfsMount, ...]:
    return tuple(RootfsMount(m.type, m.source, m.target, tuple(m.options)) for m in message.rootfs)


def _io(message: wire.TaskCreate) -> TaskIO | None:
    io = message.io
    return None if io is None else TaskIO(io.stdin, io.stdout, io.stderr, io.terminal)


# Fields that are not simply the message's.
_READ: dict[str, Callable[[Any], Any]] = {
    "exited_at_ns": _exited_at_ns,
    "runtime": _runtime,
    "rootfs": _rootfs,
    "io": _io,
}
