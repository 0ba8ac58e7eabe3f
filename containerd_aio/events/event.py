"""What all events have in common, and the two markers that may stand between events."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from containerd_aio.events.timestamps import to_datetime, to_rfc3339

if TYPE_CHECKING:
    from containerd_aio.api.containerd.types import Envelope

Origin = Literal["live", "resync"]
"""``live``: containerd sent it. ``resync``: worked out from the daemon's state after a break of the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have.

    Attributes:
        topic: Topic, such as ``/tasks/exit``.
        namespace: Namespace it happened in; for namespace events the namespace in question.
        timestamp_ns: When it was published, in nanoseconds since 1970 (UTC); 0 when absent. The clock is the shim's or
            the daemon's, and events of different publishers are not ordered by it.
        origin: Whether containerd sent it or we worked it out; see `Origin`.
        encoded: The envelope as it came from the socket; None for events made here.
    """

    message_name: ClassVar[str] = ""
    """Full protobuf name, which containerd uses as type URL: ``containerd.events.TaskExit``."""

    topic: str = ""
    namespace: str = ""
    timestamp_ns: int = 0
    origin: Origin = "live"
    encoded: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def timestamp(self) -> datetime | None:
        """When it was published, in UTC, cut to microseconds; None when absent."""
        return to_datetime(self.timestamp_ns)

    @property
    def raw(self) -> Envelope | None:
        """The generated message as it came; decoded anew at each call. None for events made here."""
        from containerd_aio._transport.codec import decode
        from containerd_aio.api.containerd.types import Envelope

        return None if self.encoded is None else decode(Envelope, self.encoded)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes.

        Keys: ``timestamp`` (RFC 3339 with nanoseconds, or None), ``namespace``, ``topic``, ``type`` (full protobuf
        name), ``origin`` and ``event``, the fields of this class in snake case, bytes in base64.
        """
        return {
            "timestamp": to_rfc3339(self.timestamp_ns),
            "namespace": self.namespace,
            "topic": self.topic,
            "type": self.message_name,
            "origin": self.origin,
            "event": _plain_fields(self),
        }


_COMMON = frozenset(f.name for f in fields(Event))  # shown beside the event's own fields


def _rfc3339_of(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _plain_fields(value: Any) -> dict[str, Any]:
    plain = {}
    for f in fields(value):
        if f.name == "exited_at_ns":
            plain["exited_at"] = to_rfc3339(value.exited_at_ns)
        elif f.name not in _COMMON:
            plain[f.name] = _plain(getattr(value, f.name))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return _plain_fields(value) if is_dataclass(value) else value


@dataclass(frozen=True, slots=True)
class UnknownEvent(Event):
    """An event of a type this release does not know, or one whose bytes are not what the type says.

    Attributes:
        type_url: Type of the payload as it was sent.
        payload: The payload, still encoded.
    """

    type_url: str = ""
    payload: bytes = b""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes, as `Event.to_dict`; ``type`` is the type URL, ``payload`` in base64."""
        plain = Event.to_dict(self)
        plain["type"] = plain["event"].pop("type_url")
        return plain


@dataclass(frozen=True, slots=True)
class Gap:
    """Marker: the stream was interrupted, and events in between may be missing.

    What could be worked out afterwards follows as events with ``origin="resync"``.

    Attributes:
        since: When the last thing was heard before the break, in UTC, by our clock.
        until: When the stream stood again, in UTC, by our clock.
        reason: Why it broke, for people.
    """

    since: datetime
    until: datetime
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes: ``{"gap": {"since", "until", "reason"}}``, times in RFC 3339."""
        return {
            "gap": {
                "since": _rfc3339_of(self.since),
                "until": _rfc3339_of(self.until),
                "reason": self.reason,
            }
        }


@dataclass(frozen=True, slots=True)
class Lagged:
    """Marker: this subscriber was too slow and events were dropped for it alone.

    Attributes:
        missed: How many.
    """

    missed: int

    def to_dict(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes: ``{"lagged": {"missed"}}``."""
        return {"lagged": {"missed": self.missed}}
