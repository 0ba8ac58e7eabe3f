"""The time as the fake tells it: it follows the event loop's clock, so that virtual time works."""

from __future__ import annotations

import asyncio
import time

from containerd_aio.api.google.protobuf import Timestamp

_SECOND = 1_000_000_000

ZERO_TIME_SECONDS = -62_135_596_800
"""Go's zero time, year 1: what containerd sends for the exit of a process that has not ended."""


class Clock:
    """Wall-clock time, worked out from the event loop's clock and the time at which the fake was started."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset_ns = time.time_ns() - int(self._loop.time() * _SECOND)

    def now_ns(self) -> int:
        """Return the time in nanoseconds since 1970 (UTC)."""
        return int(self._loop.time() * _SECOND) + self._offset_ns

    def shift(self, seconds: float) -> None:
        """Set the wall clock forwards or, with a negative number, backwards."""
        self._offset_ns += int(seconds * _SECOND)

    def timestamp(self) -> Timestamp:
        """Return the time as a message."""
        return to_timestamp(self.now_ns())


def to_timestamp(ns: int | None) -> Timestamp:
    """Return nanoseconds since 1970 as a message; None is Go's zero time."""
    if ns is None:
        return Timestamp(seconds=ZERO_TIME_SECONDS)
    return Timestamp(seconds=ns // _SECOND, nanos=ns % _SECOND)
