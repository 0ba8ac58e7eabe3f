"""The reducer at the heart of the event core: evidence in, decisions out.

Nothing here waits or talks to anybody. Each method takes one piece of evidence (an event, a reply, an answer, the passing
of time) and returns what follows from it as `Effect` values; the hub carries them out. So every ordering of the evidence
can be tried in a test, and none needs a clock or a daemon.

The rules:

* The first acceptable evidence of an exit is final; later evidence changes nothing (`verdicts`).
* An exit belongs to the process that has its pid (`attribution`, `taskevents`). Where that does not tell one life from the
  next, the daemon is asked, and a failed or unclear answer is no evidence: it is asked again (`questions`).
* An answer says nothing about what was learnt after its question was put (``as_of``; `records`, `answers`).
* A task ends by an exit, or by the daemon's word that it has no such task; by a lost connection never.
* What ended is remembered though nobody asked for it yet: the reply that tells us about a process may come after its
  exit (`memory`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containerd_aio.events.answers import Answers
from containerd_aio.events.deadlines import Deadlines
from containerd_aio.events.incarnations import Incarnations
from containerd_aio.events.memory import Memory
from containerd_aio.events.questions import Questions
from containerd_aio.events.records import Due, Incarnation, ProcessRecord
from containerd_aio.events.taskevents import TaskEvents
from containerd_aio.events.turn import Turn
from containerd_aio.events.verdicts import Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from containerd_aio.events.effects import Effect
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.events.model import Event
    from containerd_aio.events.resync import TaskState


# Seconds between the questions about single processes that an audit puts.
AUDIT_PACE = 0.01


class Registry:
    """What is known of every task, and who is right when sources disagree.

    Args:
        remember: How many ended incarnations are remembered, over all containers; the oldest is forgotten first. A
            handle keeps its own record.
    """

    def __init__(self, *, remember: int = 100_000) -> None:
        turn = self._turn = Turn()
        memory = self._memory = Memory(remember=remember)
        self._deadlines: Deadlines[Due] = Deadlines()
        questions = self._questions = Questions(turn, self._deadlines)
        verdicts = self._verdicts = Verdicts(turn, memory, self._deadlines, questions)
        incarnations = self._incarnations = Incarnations(turn, memory, verdicts)
        self._events = TaskEvents(turn, memory, questions, verdicts, incarnations)
        self._answers = Answers(turn, memory, questions, verdicts, incarnations)
        self._listed = 0

    @property
    def followed(self) -> Callable[[str], bool]:
        """Tells of a namespace whether its tasks are watched though nobody holds a handle; none by default."""
        return self._incarnations.followed

    @followed.setter
    def followed(self, followed: Callable[[str], bool]) -> None:
        self._incarnations.followed = followed

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def moment(self) -> int:
        """How much evidence was taken; what ``as_of`` is for a question put now."""
        return self._turn.moment

    @property
    def stale_exits(self) -> int:
        """Exits that belonged to no living process and were set aside."""
        return self._verdicts.stale

    @property
    def duplicate_exits(self) -> int:
        """Exits told again after they had been accepted."""
        return self._verdicts.duplicates

    def open_incarnations(self) -> Collection[Incarnation]:
        """Return the incarnations whose exit is still to come."""
        return self._memory.open.keys()

    def incarnations(self, namespace: str, container_id: str) -> list[Incarnation]:
        """Return what is remembered of a container, newest first."""
        return self._memory.all(namespace, container_id)

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do; None when nothing is pending."""
        return self._deadlines.next()

    # --- replies to our own calls -------------------------------------------------------------------------------------

    def created(
        self, namespace: str, container_id: str, pid: int, *, as_of: int, now: float
    ) -> tuple[Incarnation, list[Effect]]:
        """Take the reply to our Tasks.Create, which was sent at `as_of`."""
        self._turn.begin(now)
        incarnation = next(
            (
                i
                for i in reversed(self.incarnations(namespace, container_id))
                if i.pid == pid and i.opened > as_of
            ),
            None,
        )
        if incarnation is None:
            incarnation = self._incarnations.open(namespace, container_id, pid)
            if pid in incarnation.init.former_pids:
                # An exit since `as_of` may have been taken for the other's.
                self._questions.ask(incarnation.init)
        elif not incarnation.open:
            # It ended already, or the pid was another's since `as_of`.
            incarnation = self._incarnations.open_doubting(incarnation, inherited=False)
        # The daemon gave the name away again, so whatever had it is over, whether or not its exit was seen.
        self._answers.others_gone(incarnation, as_of)
        self._take_handle(incarnation, as_of)
        return incarnation, self._turn.end()

    def adopt(self, state: TaskState, *, as_of: int, now: float) -> tuple[Incarnation, list[Effect]]:
        """Take a handle on a task that is there, by its state as asked for at `as_of`; it must not be unclear."""
        self._turn.begin(now)
        incarnation = self._answers.observe(state, as_of)
        lagging = state.exit is None and not incarnation.open and as_of >= incarnation.init.ended
        if 0 < incarnation.deleted <= as_of:
            # A new life under the same pid, that nobody announced.
            incarnation = self._incarnations.open(*incarnation.key, state.pid)
            self._questions.ask(incarnation.init)
        elif lagging:
            # The same, or the answer lags behind the exit.
            incarnation = self._incarnations.open_doubting(incarnation)
        self._take_handle(incarnation, as_of)
        return incarnation, self._turn.end()

    def exec_added(
        self, incarnation: Incarnation, exec_id: str, *, now: float
    ) -> tuple[ProcessRecord, list[Effect]]:
        """Take the reply to our Tasks.Exec: a new exec, in place of an earlier one of that id."""
        self._turn.begin(now)
        return self._new_exec(incarnation, exec_id), self._turn.end()

    def adopt_exec(
        self, incarnation: Incarnation, state: TaskState, *, as_of: int, now: float
    ) -> tuple[ProcessRecord, list[Effect]]:
        """Take a handle on an exec that is there, by its state as asked for at `as_of`; it must not be unclear."""
        self._turn.begin(now)
        process = incarnation.execs.get(state.exec_id)
        if process is None or (
            process.pid != state.pid and not (process.pid is None and process.accepted is None)
        ):
            process = self._new_exec(incarnation, state.exec_id)  # another's, maybe in place of one of ours
        self._answers.observe_exec(process, state, as_of, tell=False)
        return process, self._turn.end()

    def _new_exec(self, incarnation: Incarnation, exec_id: str) -> ProcessRecord:
        process = ProcessRecord(incarnation, exec_id, opened=self._turn.moment)
        former = incarnation.execs.pop(exec_id, None)
        if former is not None:
            process.former_pids = former.former_pids[-7:] + ((former.pid,) if former.pid is not None else ())
            process.former = former if former.accepted is None else None
            self._verdicts.gone(former)
        incarnation.add_exec(process)
        if not incarnation.open:
            self._verdicts.expect_execs(incarnation)
        return process

    def started(self, process: ProcessRecord, pid: int, *, now: float) -> list[Effect]:
        """Take the reply to our Tasks.Start."""
        self._turn.begin(now)
        if process.exec_id:
            self._incarnations.exec_started(process, pid)
        elif pid == process.pid or self._incarnations.restored(process.incarnation, pid):
            self._incarnations.init_started(process.incarnation)
        else:
            self._questions.ask(process)  # what was started is another life of the container
        return self._turn.end()

    def start_failed(self, process: ProcessRecord, *, now: float) -> list[Effect]:
        """Take the failure of our Tasks.Start: it may have been started all the same, or have ended in the attempt."""
        self._turn.begin(now)
        process.started = process.started or None
        self._questions.ask(process)
        return self._turn.end()

    def exited(self, process: ProcessRecord, status: ExitStatus, *, as_of: int, now: float) -> list[Effect]:
        """Take an exit that the reply to a call sent at `as_of` carries.

        The calls are Tasks.Delete and Tasks.DeleteProcess, and Tasks.Wait, whose reply has no pid.
        """
        self._turn.begin(now)
        subject = self._reached(process, status, as_of)
        if subject is not process:
            self._verdicts.gone(process)
        if status.source == "delete" and not subject.exec_id:
            subject.incarnation.deleted = self._turn.moment
        self._verdicts.accept(subject, status)
        if status.source == "delete":
            self._verdicts.conclude(subject)
        return self._turn.end()

    def _reached(self, process: ProcessRecord, status: ExitStatus, as_of: int) -> ProcessRecord:
        """Return whom a call about `process` reached: the name may have gone to another since."""
        incarnation = process.incarnation
        if status.source != "delete":
            return process
        if process.exec_id:
            heir = incarnation.execs.get(process.exec_id, process)
            return heir if heir.opened <= as_of and heir.pid in {None, status.pid} else process
        if status.pid == 0:
            return process
        # Not one whose deletion was known when the call was sent; rather one that was there then than a later one.
        named = [i for i in self._memory.all(*incarnation.key) if i.pid == status.pid]
        possible = [i for i in named if not 0 < i.deleted <= as_of]
        if possible:
            return min(possible, key=lambda i: i.opened > as_of).init
        if status.pid == process.pid and not named:
            return process  # forgotten under its name
        return self._incarnations.open_past(*incarnation.key, status.pid)

    def watch(self, incarnation: Incarnation, *, now: float) -> list[Effect]:
        """Watch a task that nobody needs to hold a handle on: its exit is decided, and what happens to it is told."""
        self._turn.begin(now)
        self._verdicts.watch(incarnation)
        return self._turn.end()

    def observed(self, state: TaskState, *, as_of: int, now: float) -> list[Effect]:
        """Take the state of a task that was asked for at `as_of`, by whomever."""
        self._turn.begin(now)
        self._answers.observe(state, as_of)
        return self._turn.end()

    def absent(self, process: ProcessRecord, *, as_of: int, now: float) -> list[Effect]:
        """Take the daemon's word (NOT_FOUND), asked for at `as_of`, that it has no such process."""
        self._turn.begin(now)
        self._answers.absent(process, as_of)
        return self._turn.end()

    def inquire(self, process: ProcessRecord, *, now: float) -> list[Effect]:
        """Have the daemon asked about a process that may have ended: a call about it failed in an odd way."""
        self._turn.begin(now)
        self._questions.ask(process)
        return self._turn.end()

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, event: Event, now: float) -> tuple[list[Effect], bool]:
        """Take an event of the daemon.

        Returns:
            What follows from it, and whether subscribers shall see it: what they were told already, as found by a
            resync, is not repeated.
        """
        self._turn.begin(now)
        news = self._events.take(event)
        return self._turn.end(), news

    # --- resync -------------------------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """Take it that the daemon can't be heard: nothing is asked until it is `listed` again."""
        self._questions.disconnect()

    def listed(
        self, states: Iterable[TaskState], *, as_of: int, now: float, tell: bool = False
    ) -> list[Effect]:
        """Take a listing of all tasks of all namespaces, before the events that came since are taken.

        Who is not in it need not be gone (a listing silently leaves out tasks whose shim does not answer), so each is
        asked for.

        Args:
            states: What the daemon listed.
            as_of: The moment the listing was asked for.
            now: The clock.
            tell: Whether subscribers missed the events that led there and are to be told by synthesised ones.
        """
        self._turn.begin(now)
        self._listed = as_of
        self._questions.connect()
        clear = {id(self._answers.observe(s, as_of, tell=tell)) for s in states if not s.unclear}
        for incarnation in list(self._memory.open):
            if incarnation.init.fallback is not None:
                continue
            if id(incarnation) not in clear:
                self._questions.ask(incarnation.init, tell=tell)
            self._questions.resume(incarnation.init)
            for process in incarnation.execs.values():
                if process.accepted is None:
                    self._questions.ask(process, tell=tell)
        return self._turn.end()

    def audited(
        self, states: Iterable[TaskState], *, namespaces: Collection[str], as_of: int, now: float
    ) -> list[Effect]:
        """Take a listing of the tasks of `namespaces` that was made while the stream stood.

        It is to be given here when the events that it may have overtaken have arrived; what it shows and no event has
        told, subscribers are told by synthesised ones. Who is not in it is asked for, and so is every exec, one after
        the other.

        Args:
            states: What the daemon listed.
            namespaces: Those it was asked for.
            as_of: The moment the listing was asked for.
            now: The clock.
        """
        self._turn.begin(now)
        clear = {id(self._answers.observe(s, as_of, tell=True)) for s in states if not s.unclear}
        delay = 0.0
        for incarnation in list(self._memory.open):
            if incarnation.namespace not in namespaces or incarnation.opened > as_of:
                continue
            execs = [e for e in incarnation.execs.values() if e.accepted is None]
            missing = [] if id(incarnation) in clear else [incarnation.init]
            for process in (*missing, *execs):
                if process.fallback is None:
                    self._questions.ask(process, delay=delay, tell=True)
                    delay += AUDIT_PACE
        return self._turn.end()

    # --- answers to the hub's questions -------------------------------------------------------------------------------

    def answered(
        self,
        process: ProcessRecord,
        answer: TaskState | Literal["missing", "unclear"],
        *,
        as_of: int,
        now: float,
    ) -> list[Effect]:
        """Take the answer to a `Confirm`.

        Args:
            process: Whom it asked about.
            answer: The daemon's answer; ``unclear`` when the call failed.
            as_of: The moment the call was sent.
            now: The clock.
        """
        self._turn.begin(now)
        tell = process.question is not None and process.question.tell
        self._questions.answered(process)
        if answer == "unclear" or (answer != "missing" and answer.unclear):
            self._questions.unclear(process)
        elif answer == "missing":
            self._answers.absent(process, as_of, tell=tell)
        elif process.exec_id:
            self._answers.observe_exec(process, answer, as_of, tell=tell)
        else:
            self._answers.observe(answer, as_of, tell=tell)
        question = process.question
        if question is not None and not self._questions.pending(process):
            if as_of < question.since:
                self._questions.send(process)  # the answer was older than the question
            else:
                self._questions.drop(process)
        return self._turn.end()

    def oom_checked(
        self, incarnation: Incarnation, killed: bool | None, *, as_of: int, now: float
    ) -> list[Effect]:
        """Take the answer to a `CheckOOM` that was sent at `as_of`; None when it could not be had."""
        self._turn.begin(now)
        self._verdicts.oom_checked(incarnation, killed, as_of)
        return self._turn.end()

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Let time pass: what waited for something better waits no longer."""
        self._turn.begin(now)
        for due, process in self._deadlines.due(now):
            match due:
                case "ask":
                    self._questions.send(process)
                case "fallback":
                    self._verdicts.fallback_due(process)
                case "oom":
                    self._verdicts.oom_due(process)
                case "execs":
                    self._verdicts.execs_due(process.incarnation)
        return self._turn.end()

    # --- small things -------------------------------------------------------------------------------------------------

    def _take_handle(self, incarnation: Incarnation, as_of: int) -> None:
        self._verdicts.watch(incarnation)
        if as_of < self._listed and incarnation.open:
            self._questions.ask(incarnation.init)  # what was missed since `as_of` was not looked for
