"""The state of the event stream, as users see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

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


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of the event core, since the client was opened.

    Attributes:
        events: Events read from the stream, sentinels left out.
        sessions: How often the stream stood and was in step with the daemon.
        resynced: Events worked out by comparing after a break.
        stale_exits: Exits that belonged to no living process and were set aside.
        duplicate_exits: Exits told again after they had been decided.
        malformed: Envelopes that could not be read.
        subscribers: Open subscriptions.
        open_tasks: Tasks whose exit is still to come.
    """

    events: int
    sessions: int
    resynced: int
    stale_exits: int
    duplicate_exits: int
    malformed: int
    subscribers: int
    open_tasks: int
