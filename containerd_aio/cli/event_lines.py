"""Events as lines for people, and as JSON. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from containerd_aio.events.event import Event, Gap, Lagged, UnknownEvent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

# Said by the line already, or of no use in one line; `--json` has all.
_LEFT_OUT = {"exited_at", "bundle", "rootfs", "io", "payload"}

_DIM, _BOLD, _RED, _YELLOW, _OFF = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def json_line(item: Event | Gap | Lagged) -> str:
    """Return one JSON object, without spaces; see `Event.to_dict`, `Gap.to_dict` and `Lagged.to_dict`."""
    return json.dumps(item.to_dict(), separators=(",", ":"), ensure_ascii=False)


def line(item: Event | Gap | Lagged, *, colour: bool = False) -> str:
    """Return a line for people: time, namespace, topic, what it is about, and what else there is to say.

    Args:
        item: An event or a marker.
        colour: With ANSI escape sequences.
    """
    match item:
        case Gap(since, until, reason):
            seconds = (until - since).total_seconds()
            text = f"-- gap {_clock(since)} to {_clock(until)} ({seconds:.1f} s): {_printable(reason)}"
            return f"{_YELLOW}{text}{_OFF}" if colour else text
        case Lagged(missed):
            text = f"-- lagged: {missed} events were dropped, because the output was read too slowly"
            return f"{_YELLOW}{text}{_OFF}" if colour else text
    subject, details = describe(item)
    when = _clock(item.timestamp) if item.timestamp is not None else "-"
    namespace, topic, rest = item.namespace or "-", f"{item.topic:<18}", " ".join(details)
    if colour:
        when, namespace, subject = (
            f"{_DIM}{when}{_OFF}",
            f"{_DIM}{namespace}{_OFF}",
            f"{_BOLD}{subject}{_OFF}",
        )
        topic = f"{_RED}{topic}{_OFF}" if item.topic in {"/tasks/exit", "/tasks/oom"} else topic
    return f"{when} {namespace} {topic} {subject} {rest}".rstrip()


def describe(event: Event) -> tuple[str, list[str]]:
    """Return what an event is about (its container, image, key...), and its other fields as ``name=value``."""
    if isinstance(event, UnknownEvent):
        return event.type_url or "-", [f"bytes={len(event.payload)}", *_origin(event)]
    fields: dict[str, Any] = event.to_dict()["event"]
    names = iter(fields)
    subject = str(fields[next(names)]) or "-"
    if "exec_id" in fields:
        subject += f"/{fields['exec_id']}"
    elif fields.get("id") and "container_id" in fields and fields["id"] != fields["container_id"]:
        subject += f"/{fields['id']}"
    shown = {name: fields[name] for name in names if name not in _LEFT_OUT and name not in {"id", "exec_id"}}
    return _printable(subject), [*_details(shown), *_origin(event)]


def _details(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _details(value, f"{prefix}{name}.")
        elif name == "exit_status" or value not in ("", 0, None, False, []):
            text = _printable(str(value))
            yield f"{prefix}{name}={text!r}" if " " in text else f"{prefix}{name}={text}"


def _origin(event: Event) -> list[str]:
    return [] if event.origin == "live" else [f"({event.origin})"]


def _printable(text: str) -> str:
    """Return `text` without line breaks and escape sequences: whoever names things must not write on our terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _clock(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"
