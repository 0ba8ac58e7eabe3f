"""Whom the daemon is to be asked about, when, and how often: the pace of `Confirm`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.events.effects import Confirm, Unclear

if TYPE_CHECKING:
    from containerd_aio.events.deadlines import Deadlines
    from containerd_aio.events.records import Due, ProcessRecord
    from containerd_aio.events.turn import Turn

# Seconds before a question is put again that was not, or not finally, answered; doubled each time.
RETRY_FIRST, RETRY_MAX = 0.1, 5.0
# Seconds without a clear answer after which that is told.
TELL_AFTER = 30.0
# So many at once: a reconnect may raise thousands.
AT_ONCE = 32


@dataclass(slots=True)
class Question:
    """What the daemon is being asked about a process.

    Attributes:
        since: Moment it arose; an answer to a question put before that does not settle it.
        tell: Whether subscribers missed what led to the answer.
        retry: Seconds until the next try.
        sent: Whether it is on its way, or in the queue for it.
        unclear_since: Since when, on the clock of the registry, the daemon answers that it can't tell, or not at all.
        unclear_told: Whether that was told.
    """

    since: int
    tell: bool = False
    retry: float = RETRY_FIRST
    sent: bool = False
    unclear_since: float | None = None
    unclear_told: bool = False


class Questions:
    """Puts the questions, a bounded number at a time; none while there is no connection.

    Args:
        turn: The turn of the registry.
        deadlines: Where retries are kept.

    Attributes:
        connected_since: Since when questions can be put; None while they can't.
    """

    def __init__(self, turn: Turn, deadlines: Deadlines[Due]) -> None:
        self._turn = turn
        self._deadlines = deadlines
        self._queue: deque[ProcessRecord] = deque()
        self._outstanding = 0
        self.connected_since: float | None = turn.now

    def ask(self, process: ProcessRecord, *, delay: float = 0.0, tell: bool = False) -> None:
        """Ask about `process` if its exit is not known; only an answer to a question put from now on settles it.

        Args:
            process: The process.
            delay: Seconds to wait first: the answer may come by itself.
            tell: Whether subscribers missed what led to the answer.
        """
        if process.accepted is not None:
            return
        question = process.question
        if question is None:
            question = process.question = Question(self._turn.moment, tell)
        else:
            question.since, question.tell = self._turn.moment, question.tell or tell
        if delay and not self.pending(process):
            self._deadlines.set(("ask", process), self._turn.now + delay)
        elif not delay:
            self.send(process)

    def unclear(self, process: ProcessRecord) -> None:
        """Take an answer that says nothing: ask again, and have it told once when that goes on for long."""
        question, now = process.question, self._turn.now
        if question is None:
            return
        if question.unclear_since is None:
            question.unclear_since = now
        elif now - question.unclear_since >= TELL_AFTER and not question.unclear_told:
            question.unclear_told = True
            self._turn.effects.append(Unclear(process))
        self.again(process)

    def again(self, process: ProcessRecord) -> None:
        """Put the question once more, later: the answer did not settle it."""
        question = process.question
        if question is not None and not question.sent:
            self._deadlines.set(("ask", process), self._turn.now + question.retry)
            question.retry = min(question.retry * 2, RETRY_MAX)

    def drop(self, process: ProcessRecord) -> None:
        """Ask no more about `process`."""
        if process.question is not None:
            process.question = None
            self._deadlines.clear(("ask", process))

    def pending(self, process: ProcessRecord) -> bool:
        """Return whether an answer, or another try, is still to come."""
        question = process.question
        return question is not None and (question.sent or ("ask", process) in self._deadlines)

    def send(self, process: ProcessRecord) -> None:
        """Put the question now, or as soon as one of those on their way is answered."""
        question = process.question
        if question is None or question.sent or self.connected_since is None:
            return
        self._deadlines.clear(("ask", process))
        question.sent = True
        if self._outstanding < AT_ONCE:
            self._outstanding += 1
            self._turn.effects.append(Confirm(process))
        else:
            self._queue.append(process)

    def resume(self, process: ProcessRecord) -> None:
        """Put a question that arose while there was no connection."""
        if not self.pending(process):
            self.send(process)

    def answered(self, process: ProcessRecord) -> None:
        """Note that a question that was put came back."""
        self._outstanding -= 1
        if process.question is not None:
            process.question.sent = False
        while self._queue and self._outstanding < AT_ONCE:
            waiting = self._queue.popleft()
            if waiting.question is not None and waiting.question.sent:
                self._outstanding += 1
                self._turn.effects.append(Confirm(waiting))

    def disconnect(self) -> None:
        """Put no questions until `connect`: what they ask will be compared anyway when the connection is back."""
        self.connected_since = None
        for process in self._queue:
            if process.question is not None:
                process.question.sent = False
        self._queue.clear()

    def connect(self) -> None:
        """Put questions again."""
        self.connected_since = self._turn.now
