"""The state of the event stream, as users see it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self

import anyio

# So many changes a slow reader of the status may lag behind; of older ones he sees nothing.
REMEMBERED = 64

StatusState = Literal["connected", "resyncing", "degraded", "disconnected"]
"""State of the event stream.

* ``connected``: events arrive; waits are answered at once.
* ``resyncing``: connected, and comparing what is believed with what the daemon says.
* ``degraded``: the connection stands, but the daemon does not answer on it.
* ``disconnected``: no connection; it is tried again, for ever.
"""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the event stream since a moment.

    Attributes:
        state: See `StatusState`.
        since: When it came to be so (UTC).
        reason: Why, in words; empty when there is nothing to say.
    """

    state: StatusState
    since: datetime
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


class StatusLog:
    """The present status, and the latest changes of it.

    Attributes:
        present: The present status.
        changes: How many there were, the first status included.
        closed: Whether there will be no change any more.
    """

    def __init__(self) -> None:
        self.present = Status("disconnected", datetime.now(UTC), "not started")
        self.changes = 1
        self.closed = False
        self._latest: deque[Status] = deque([self.present], maxlen=REMEMBERED)
        self._changed = anyio.Event()

    def set(self, state: StatusState, reason: str = "") -> None:
        """Note the present state, and wake who waits, if only to look at other things again."""
        if (state, reason) != (self.present.state, self.present.reason):
            self.present = Status(state, datetime.now(UTC), reason)
            self._latest.append(self.present)
            self.changes += 1
        self._wake()

    def close(self) -> None:
        """Note that there will be no change any more."""
        self.closed = True
        self._wake()

    async def change(self) -> None:
        """Wait until `set` or `close` is called."""
        await self._changed.wait()

    def after(self, seen: int) -> tuple[int, Status] | None:
        """Return the first remembered change after the first `seen`, and its number; None when there is none yet."""
        unseen = min(self.changes - seen, len(self._latest))
        return (self.changes - unseen + 1, self._latest[-unseen]) if unseen else None

    def follow(self) -> StatusChanges:
        """Return an iterator over the present status and every change of it."""
        return StatusChanges(self)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class StatusChanges(AsyncIterator[Status]):
    """The present status, then every change: ``async for status in client.status()``.

    It is nothing but a place in the list of changes: there is nothing to close, and a loop may be left at any time. It
    ends when the client is closed. A reader that is more than 64 changes behind misses the oldest of them.
    """

    def __init__(self, log: StatusLog) -> None:
        self._log = log
        self._seen = log.changes - 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Status:
        """Return the next status.

        Raises:
            StopAsyncIteration: The client was closed.
        """
        while (found := self._log.after(self._seen)) is None:
            if self._log.closed:
                raise StopAsyncIteration
            await self._log.change()
        self._seen, status = found
        return status


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of the event core, since the client was opened.

    Attributes:
        events: Events read from the stream, sentinels left out.
        sessions: How often the stream stood and was in step with the daemon.
        audits: How often the tasks were compared with the daemon's listing while the stream stood.
        resynced: Events worked out by comparing, after a break or in an audit.
        stale_exits: Exits that belonged to no living process and were set aside.
        duplicate_exits: Exit events of processes whose exit was known already.
        malformed: Envelopes that could not be read.
        subscribers: Open subscriptions.
        open_tasks: Tasks whose exit is still to come.
    """

    events: int
    sessions: int
    audits: int
    resynced: int
    stale_exits: int
    duplicate_exits: int
    malformed: int
    subscribers: int
    open_tasks: int
