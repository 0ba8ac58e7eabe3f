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


#: Namespace and topic of an event.
Route = tuple[str, str]
#: Encoded namespace and topic, as they stand behind each other in an envelope, and what they say. There are few.
_ROUTES: dict[bytes, Route] = {}
#: More are not remembered at a time.
MAX_ROUTES = 4096


def route_of(data: bytes) -> Route | None:
    """Return namespace and topic of an encoded envelope without reading the rest of it.

    None when they stand elsewhere than containerd puts them; `decode_envelope` knows.
    """
    try:
        start = 2 + data[1]
        middle = start + 2 + data[start + 1]
        end = middle + 2 + data[middle + 1]
        if data[0] != _FIELD_1 or start >= 0x82 or data[end] != _FIELD_4:
            return None
    except IndexError:
        return None
    return _ROUTES.get(data[start:end]) or _learn(data[start:end], middle - start)


def _learn(header: bytes, middle: int) -> Route | None:
    """Read what stands between time and payload, and remember it."""
    sizes = header[1], header[middle + 1]
    if (header[0], header[middle]) != (_FIELD_2, _FIELD_3) or max(sizes) >= 0x80:
        return None
    try:
        route = header[2:middle].decode(), header[middle + 2 :].decode()
    except UnicodeDecodeError:
        return None
    if len(_ROUTES) >= MAX_ROUTES:
        _ROUTES.clear()
    _ROUTES[header] = route
    return route


def decode_envelope(data: bytes) -> EnvelopeView:
    """Read one ``containerd.types.Envelope``.

    Raises:
        ValueError: `data` is not an envelope; the message names what is wrong.
    """
    route = route_of(data)
    if route is None:
        return _decode_unusual_envelope(data)
    # Behind the time (at most 127 bytes, tag and size before them), namespace and topic: the payload, to the end.
    start = 2 + data[1]
    pos = start + 4 + data[start + 1]
    pos += data[pos - 1]
    try:
        size = data[pos + 1]
        pos += 2
        if size >= 0x80:
            size = size & 0x7F | data[pos] << 7
            pos += 1
        if pos + size != len(data) or size >= _MAX_SIZE:
            return _decode_unusual_envelope(data)
        type_url, payload = _any(data, pos, pos + size)
        return EnvelopeView(*route, _timestamp(data, 2, start), type_url, payload, data)
    except (_Unusual, ValueError, IndexError):
        return _decode_unusual_envelope(data)


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


#: Encoded seconds of a time, tag included, and what they say: the present has few.
_SECONDS: dict[bytes, int] = {}
_MAX_SECONDS = 1024


def _timestamp(data: bytes, pos: int, stop: int) -> int:
    """Read a ``google.protobuf.Timestamp`` as nanoseconds."""
    middle = pos + 6  # of the usual one: five bytes of seconds from 1971 on
    seconds = _SECONDS.get(data[pos:middle])
    if seconds is None:
        middle, seconds = _number(data, pos, stop, _NUMBER_1)
        if middle == pos + 6:
            if len(_SECONDS) >= _MAX_SECONDS:
                _SECONDS.clear()
            _SECONDS[data[pos:middle]] = seconds
    if stop - middle == 6 and data[middle] == _NUMBER_2:
        bits = int.from_bytes(data[middle + 1 : stop], "little")
        if bits & 0x8080808080 != 0x0080808080:
            raise _Unusual
        nanos = (
            bits & 0x7F
            | bits >> 1 & 0x3F80
            | bits >> 2 & 0x1FC000
            | bits >> 3 & 0xFE00000
            | bits >> 4 & 0x7F0000000
        )
    else:
        middle, nanos = _number(data, middle, stop, _NUMBER_2)
        if middle != stop:
            raise _Unusual
    if seconds > _LAST_SECOND or nanos > 999_999_999:
        raise _Unusual
    return seconds * 1_000_000_000 + nanos


def _number(data: bytes, pos: int, stop: int, tag: int) -> tuple[int, int]:
    """Read a number with this tag; return the position behind it and the number, 0 when there is none."""
    if pos >= stop or data[pos] != tag:
        return pos, 0
    pos += 1
    number = shift = 0
    while (byte := data[pos]) >= 0x80:
        number += (byte - 0x80) << shift
        shift += 7
        pos += 1
    return pos + 1, number + (byte << shift)


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
_TASK_EXIT = TaskExit.message_name


def _setter(cls: type[Event], name: str) -> Callable[[Event, object], None]:
    set_slot: Callable[[Event, object], None] = cls.__dict__[name].__set__
    return set_slot


# A frozen dataclass sets its own fields by a way that takes twice as long as all the reading.
_new_exit = TaskExit.__new__
_set_container_id = _setter(TaskExit, "container_id")
_set_id = _setter(TaskExit, "id")
_set_pid = _setter(TaskExit, "pid")
_set_exit_status = _setter(TaskExit, "exit_status")
_set_exited_at_ns = _setter(TaskExit, "exited_at_ns")
_set_topic = _setter(Event, "topic")
_set_namespace = _setter(Event, "namespace")
_set_timestamp_ns = _setter(Event, "timestamp_ns")
_set_origin = _setter(Event, "origin")
_set_encoded = _setter(Event, "encoded")


def _decode_event(view: EnvelopeView) -> Event:
    try:
        if view.type_url == _TASK_EXIT:
            return _task_exit(view) or _by_message(view, TaskExit)
        name = view.type_url.rpartition("/")[2]
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
    pid = exit_status = exited_at_ns = 0
    try:
        middle = 2 + data[1]
        pos = middle + 2 + data[middle + 1]
        if data[0] != _FIELD_1 or data[middle] != _FIELD_2 or middle >= 0x82 or pos - middle >= 0x82:
            return None
        container_id, process_id = data[2:middle].decode(), data[middle + 2 : pos].decode()
        if data[pos] == _NUMBER_3:
            pid = data[pos + 1]
            pos += 2
            if pid >= 0x80:
                pid, pos = read_varint(data, pos - 1)
        if data[pos] == _NUMBER_4:
            exit_status = data[pos + 1]
            pos += 2
            if exit_status >= 0x80:
                exit_status, pos = read_varint(data, pos - 1)
        if data[pos] != _FIELD_5 or pos + 2 + data[pos + 1] != len(data):
            return None
        exited_at_ns = _timestamp(data, pos + 2, len(data))
    except (_Unusual, IndexError):
        return None
    if pid > _UINT32 or exit_status > _UINT32:
        return None
    event = _new_exit(TaskExit)
    _set_container_id(event, container_id)
    _set_id(event, process_id)
    _set_pid(event, pid)
    _set_exit_status(event, exit_status)
    _set_exited_at_ns(event, exited_at_ns or None)
    _set_topic(event, view.topic)
    _set_namespace(event, view.namespace)
    _set_timestamp_ns(event, view.timestamp_ns)
    _set_origin(event, "live")
    _set_encoded(event, view.encoded)
    return event


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
