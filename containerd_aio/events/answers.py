"""What the daemon's answers say: a process is in a certain state, or it does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio.events.effects import Started, Synthesised
from containerd_aio.events.records import Incarnation, Phase, ProcessRecord

if TYPE_CHECKING:
    from containerd_aio.events.incarnations import Incarnations
    from containerd_aio.events.memory import Memory
    from containerd_aio.events.questions import Questions
    from containerd_aio.events.resync import TaskState
    from containerd_aio.events.turn import Turn
    from containerd_aio.events.verdicts import Verdicts


class Answers:
    """Takes answers, whoever asked. Each is dated: it says nothing about what was learnt after `as_of`.

    Args:
        turn: The turn of the registry.
        memory: The incarnations.
        questions: What the daemon is being asked.
        verdicts: Decides exits.
        incarnations: Opens incarnations.
    """

    def __init__(
        self, turn: Turn, memory: Memory, questions: Questions, verdicts: Verdicts, incarnations: Incarnations
    ) -> None:
        self._turn = turn
        self._memory = memory
        self._questions = questions
        self._verdicts = verdicts
        self._incarnations = incarnations

    def observe(self, state: TaskState, as_of: int, *, tell: bool = False) -> Incarnation:
        """Take the state of a task; return the incarnation that it is of."""
        latest = self._memory.latest(*state.key)
        current = latest is None or latest.opened <= as_of
        find = self._incarnations.find if current else self._memory.find
        incarnation = find(*state.key, state.pid)
        if incarnation is None:
            incarnation = self._incarnations.open(*state.key, state.pid, behind=not current)
            if not current:
                self._questions.ask(incarnation.init)
            if tell:
                events = state.appeared()
                incarnation.init.told |= {event.topic for event in events}
                self._turn.effects += [Synthesised(event) for event in events]
            if tell or state.exit is None:
                self._incarnations.follow(incarnation)
        elif incarnation.open and current:
            self._memory.promote(incarnation)
        self.others_gone(incarnation, as_of, tell=tell)
        if incarnation.open:
            if state.exit is not None:
                self._found_exit(incarnation.init, state, tell=tell)
            else:
                self._found_alive(incarnation, state, as_of, tell=tell)
        return incarnation

    def observe_exec(self, process: ProcessRecord, state: TaskState, as_of: int, *, tell: bool) -> None:
        """Take the state of the exec that has the id of `process`."""
        if process.accepted is not None:
            return
        if state.phase is Phase.CREATED and state.exit is None:
            _not_started(process)
        elif process.pid is None:
            self._incarnations.exec_started(process, state.pid)
        if process.pid is not None and state.pid not in {0, process.pid}:
            self._verdicts.gone(process, tell=tell)
        elif state.exit is not None:
            self._found_exit(process, state, tell=tell)
        else:
            self._verdicts.lives(process, as_of)
            self._settle(process, as_of)

    def absent(self, process: ProcessRecord, as_of: int, *, tell: bool = False) -> None:
        """Take it that the daemon knows nothing under the name of `process`."""
        if process.exec_id:
            if process.opened <= as_of:
                self._verdicts.gone(process, tell=tell)
            return
        for incarnation in self._memory.all(*process.incarnation.key):
            if incarnation.open and incarnation.opened <= as_of:
                self._verdicts.gone(incarnation.init, tell=tell)
        if process.opened <= as_of:
            self._verdicts.gone(process, tell=tell)  # though it may be forgotten under its name

    def others_gone(self, incarnation: Incarnation, as_of: int, *, tell: bool = False) -> None:
        """Take it that `incarnation` had its name at `as_of`: whatever had it before is over."""
        for other in self._memory.all(*incarnation.key):
            if other is not incarnation and other.open and other.opened <= as_of:
                self._verdicts.gone(other.init, tell=tell)

    def _found_exit(self, process: ProcessRecord, state: TaskState, *, tell: bool) -> None:
        assert state.exit is not None
        if tell:
            if not process.exec_id and not process.started:
                self._start_missed(process, state)
            process.told |= {"/tasks/exit"}
            self._turn.effects.append(Synthesised(state.exit_event()))
        self._verdicts.accept(process, state.exit)

    def _start_missed(self, process: ProcessRecord, state: TaskState) -> None:
        """Take it that a task that is found stopped after a break had been started, unseen."""
        process.started = True
        start = state.appeared()[-1]
        if start.topic not in process.told:
            process.told |= {start.topic}
            self._turn.effects.append(Synthesised(start))
        if process.incarnation.watched:
            self._turn.effects.append(Started(process))

    def _found_alive(self, incarnation: Incarnation, state: TaskState, as_of: int, *, tell: bool) -> None:
        self._verdicts.lives(incarnation.init, as_of)
        self._settle(incarnation.init, as_of)
        if as_of < incarnation.phase_since or state.phase is None:
            return
        if tell and {incarnation.phase, state.phase} == {Phase.RUNNING, Phase.PAUSED}:
            self._turn.effects.append(Synthesised(state.pause_event()))
        if state.phase is Phase.CREATED:
            _not_started(incarnation.init)
        else:
            self._incarnations.init_started(incarnation)
            self._incarnations.phase(incarnation, state.phase)

    def _settle(self, process: ProcessRecord, as_of: int) -> None:
        """Drop the question about a process that lives, if that answers it."""
        question = process.question
        if question is not None and not process.doubts and as_of >= question.since and not question.sent:
            self._questions.drop(process)


def _not_started(process: ProcessRecord) -> None:
    process.started = process.started or False
