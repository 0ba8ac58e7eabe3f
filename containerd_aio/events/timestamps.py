"""Points in time as containerd sends them: seconds and nanoseconds, kept whole.

A ``datetime`` has microseconds, so nanoseconds stay in integers and a ``datetime`` is made only for those who ask.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
_END = 253_402_300_800 * _SECOND  # year 10000: where datetime, RFC 3339 and protobuf's Timestamp stop


def to_ns(seconds: int, nanos: int) -> int:
    """Return nanoseconds since 1970; 0 for what is no usable time.

    Not usable are everything up to 1970 (Go's zero time, the year 1, is what containerd sends for a process that never
    ran), everything after the year 9999, and nanoseconds outside one second.
    """
    if not 0 <= nanos < _SECOND:
        return 0
    ns = seconds * _SECOND + nanos
    return ns if 0 < ns < _END else 0


def to_datetime(ns: int | None) -> datetime | None:
    """Return `ns` (since 1970) in UTC, cut to microseconds; None for None, for 0 and for what a datetime can't hold."""
    if ns is None or not 0 < ns < _END:
        return None
    return _EPOCH + timedelta(microseconds=ns // 1000)


def to_rfc3339(ns: int | None) -> str | None:
    """Return `ns` as ``2026-11-22T10:11:12.123456789Z``; None where `to_datetime` has none."""
    time = to_datetime(ns)
    if time is None or ns is None:
        return None
    return f"{time:%Y-%m-%dT%H:%M:%S}.{ns % _SECOND:09d}Z"
