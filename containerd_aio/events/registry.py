"""The reducer at the heart of the event core: evidence in, decisions out.

Nothing here waits or talks to anybody. Each method takes one piece of evidence (an event, a reply, an answer, the passing
of time) and returns what follows from it as `Effect` values; the hub carries them out. So every ordering of the evidence
can be tried in a test, and none needs a clock or a daemon.

The rules:

* The first acceptable evidence of an exit is final; later evidence changes nothing (`verdicts`).
* An exit belongs to the process that has its pid (`attribution`). Where that does not tell one life from the next, the
  daemon is asked, and a failed or unclear answer is no evidence: it is asked again (`questions`).
* An answer says nothing about what was learnt after its question was put (``as_of``; `records`).
* A task ends by an exit, or by the daemon's word that it has no such task; by a lost connection never.
* What ended is remembered though nobody asked for it yet: the reply that tells us about a process may come after its
  exit (`memory`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containerd_aio.events.attribution import doubtful, init_of, is_copy, process_of
from containerd_aio.events.deadlines import Deadlines
from containerd_aio.events.effects import Effect, PhaseChanged, Started, Synthesised
from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
from containerd_aio.events.memory import Memory
from containerd_aio.events.model import (
    Event,
    TaskCreate,
    TaskDelete,
    TaskExecStarted,
    TaskExit,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)
from containerd_aio.events.questions import Questions
from containerd_aio.events.records import Due, Incarnation, Phase, ProcessRecord
from containerd_aio.events.turn import Turn
from containerd_aio.events.verdicts import DELETE_GRACE, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from containerd_aio.events.resync import TaskState

# Seconds before the daemon is asked about an exit that the reply to our start will probably explain.
REPLY_GRACE = 0.1


class Registry:
    """What is known of every task, and who is right when sources disagree.

    Args:
        remember: How many ended incarnations are remembered, over all containers; the oldest is forgotten first. A
            handle keeps its own record.

    Attributes:
        followed: Tells of a namespace whether its tasks are watched though nobody holds a handle; none by default.
    """

    def __init__(self, *, remember: int = 100_000) -> None:
        self._turn = Turn()
        self._memory = Memory(remember=remember)
        self._deadlines: Deadlines[Due] = Deadlines()
        self._questions = Questions(self._turn, self._deadlines)
        self._verdicts = Verdicts(self._turn, self._memory, self._deadlines, self._questions)
        self._listed = 0
        self.followed: Callable[[str], bool] = lambda _: False

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
            incarnation = self._open(namespace, container_id, pid)
            if pid in incarnation.init.former_pids:
                # An exit since `as_of` may have been taken for the other's.
                self._questions.ask(incarnation.init)
        elif not incarnation.open:
            # It ended already, or the pid was another's since `as_of`.
            incarnation = self._open_doubting(incarnation, inherited=False)
        # The daemon gave the name away again, so whatever had it is over, whether or not its exit was seen.
        self._others_gone(incarnation, as_of)
        self._take_handle(incarnation, as_of)
        return incarnation, self._turn.end()

    def adopt(self, state: TaskState, *, as_of: int, now: float) -> tuple[Incarnation, list[Effect]]:
        """Take a handle on a task that is there, by its state as asked for at `as_of`; it must not be unclear."""
        self._turn.begin(now)
        incarnation = self._observe(state, as_of)
        lagging = state.exit is None and not incarnation.open and as_of >= incarnation.init.ended
        if 0 < incarnation.deleted <= as_of:
            # A new life under the same pid, that nobody announced.
            incarnation = self._open(*incarnation.key, state.pid)
            self._questions.ask(incarnation.init)
        elif lagging:
            # The same, or the answer lags behind the exit.
            incarnation = self._open_doubting(incarnation)
        self._take_handle(incarnation, as_of)
        return incarnation, self._turn.end()

    def exec_added(
        self, incarnation: Incarnation, exec_id: str, *, now: float
    ) -> tuple[ProcessRecord, list[Effect]]:
        """Take the reply to our Tasks.Exec: a new exec, in place of an earlier one of that id."""
        self._turn.begin(now)
        process = ProcessRecord(incarnation, exec_id, opened=self._turn.moment)
        former = incarnation.execs.get(exec_id)
        if former is not None:
            process.former_pids = former.former_pids[-7:] + ((former.pid,) if former.pid is not None else ())
            process.former = former if former.accepted is None else None
            self._verdicts.gone(former)
        incarnation.execs[exec_id] = process
        if not incarnation.open:
            self._verdicts.expect_execs(incarnation)
        return process, self._turn.end()

    def started(self, process: ProcessRecord, pid: int, *, now: float) -> list[Effect]:
        """Take the reply to our Tasks.Start."""
        self._turn.begin(now)
        if process.exec_id:
            self._exec_started(process, pid)
        elif pid == process.pid:
            self._init_started(process.incarnation)
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
        return self._open_past(*incarnation.key, status.pid)

    def watch(self, incarnation: Incarnation, *, now: float) -> list[Effect]:
        """Watch a task that nobody needs to hold a handle on: its exit is decided, and what happens to it is told."""
        self._turn.begin(now)
        self._verdicts.watch(incarnation)
        return self._turn.end()

    def observed(self, state: TaskState, *, as_of: int, now: float) -> list[Effect]:
        """Take the state of a task that was asked for at `as_of`, by whomever."""
        self._turn.begin(now)
        self._observe(state, as_of)
        return self._turn.end()

    def absent(self, process: ProcessRecord, *, as_of: int, now: float) -> list[Effect]:
        """Take the daemon's word (NOT_FOUND), asked for at `as_of`, that it has no such process."""
        self._turn.begin(now)
        self._absent(process, as_of)
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
        news = True
        match event:
            case TaskExit():
                news = self._exit_event(event)
            case TaskCreate():
                news = self._create_event(event)
            case TaskStart():
                news = self._start_event(event)
            case TaskDelete():
                self._delete_event(event)
            case TaskExecStarted():
                self._exec_started_event(event)
            case TaskOOM():
                self._verdicts.oom_reported(self._memory.all(event.namespace, event.container_id))
            case TaskPaused() | TaskResumed():
                latest = self._memory.latest(event.namespace, event.container_id)
                if latest is not None:
                    self._phase(latest, Phase.PAUSED if isinstance(event, TaskPaused) else Phase.RUNNING)
            case _:
                pass
        return self._turn.end(), news

    def _create_event(self, event: TaskCreate) -> bool:
        known = self._memory.find(event.namespace, event.container_id, event.pid)
        if known is not None and (known.open or not known.announced):
            known.announced = True
            self._memory.promote(known)
            self._follow(known)
            return _news(known.init, event)
        if known is not None:
            incarnation = self._open_doubting(known)  # the pid again, or only the event
        else:
            incarnation = self._open(event.namespace, event.container_id, event.pid)
        incarnation.announced = True
        self._follow(incarnation)
        for other in self._memory.all(*incarnation.key):
            if other is not incarnation and other.open:
                self._questions.ask(other.init)  # its exit was lost, or this event is late
        return True

    def _start_event(self, event: TaskStart) -> bool:
        known = self._memory.find(event.namespace, event.container_id, event.pid)
        if known is None:
            return True
        if known.open or known.announced:
            self._follow(known)
        self._init_started(known)
        return _news(known.init, event)

    def _exec_started_event(self, event: TaskExecStarted) -> None:
        for incarnation in self._memory.all(event.namespace, event.container_id):
            process = incarnation.execs.get(event.exec_id)
            if process is not None:
                if process.pid is None and event.pid not in process.former_pids:
                    self._exec_started(process, event.pid)
                return

    def _exit_event(self, event: TaskExit) -> bool:
        incarnations = self._memory.all(event.namespace, event.container_id)
        process = process_of(event, incarnations)
        status = _status(event, "event")
        if process is None:
            if event.id in {"", event.container_id}:
                self._verdicts.stale += 1
                self._verdicts.accept(self._open_past(event.namespace, event.container_id, event.pid), status)
            return True
        repeated = (
            "/tasks/exit" in process.told and process.accepted is not None and not process.accepted.unknown
        )
        if process.accepted is None and any(is_copy(event, i) for i in incarnations):
            self._verdicts.duplicates += 1
        elif process.accepted is None and doubtful(process, event.pid):
            self._verdicts.doubt(process, status, delay=REPLY_GRACE if process.pid is None else 0.0)
        elif status.unknown:
            self._verdicts.fall_back(process, status, DELETE_GRACE)  # the shim may have told more
        else:
            self._verdicts.accept(process, status)
        return not repeated

    def _delete_event(self, event: TaskDelete) -> None:
        if event.id not in {"", event.container_id}:
            return
        init = init_of(event, self._memory.all(event.namespace, event.container_id))
        if init is None:
            init = self._open_past(event.namespace, event.container_id, event.pid)
        init.incarnation.announced = True
        if init.accepted is None and doubtful(init, event.pid):
            self._verdicts.doubt(init, _status(event, "task-delete"))
        else:
            init.incarnation.deleted = init.incarnation.deleted or self._turn.moment
            self._verdicts.fall_back(init, _status(event, "task-delete"), DELETE_GRACE)

    # --- resync -------------------------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """Take it that the daemon can't be heard: nothing is asked until it is `listed` again."""
        self._questions.disconnected()

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
        self._questions.connected()
        clear = {id(self._observe(s, as_of, tell=tell)) for s in states if not s.unclear}
        for incarnation in list(self._memory.open):
            if incarnation.init.fallback is not None:
                continue
            if id(incarnation) not in clear:
                self._questions.ask(incarnation.init, tell=tell)
            for process in incarnation.execs.values():
                if process.accepted is None:
                    self._questions.ask(process, tell=tell)
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
            self._questions.again(process)
        elif answer == "missing":
            self._absent(process, as_of, tell=tell)
        elif process.exec_id:
            self._observe_exec(process, answer, as_of, tell=tell)
        else:
            self._observe(answer, as_of, tell=tell)
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

    # --- what the daemon says -----------------------------------------------------------------------------------------

    def _observe(self, state: TaskState, as_of: int, *, tell: bool = False) -> Incarnation:
        """Take the state of a task; return the incarnation that it is of."""
        incarnation = self._memory.find(*state.key, state.pid)
        latest = self._memory.latest(*state.key)
        current = latest is None or latest.opened <= as_of
        if incarnation is None:
            incarnation = self._open(*state.key, state.pid, behind=not current)
            if not current:
                self._questions.ask(incarnation.init)
            if tell:
                events = state.appeared()
                incarnation.init.told |= {event.topic for event in events}
                self._turn.effects += [Synthesised(event) for event in events]
            if tell or state.exit is None:
                self._follow(incarnation)
        elif incarnation.open and current:
            self._memory.promote(incarnation)
        self._others_gone(incarnation, as_of, tell=tell)
        if incarnation.open:
            if state.exit is not None:
                self._found_exit(incarnation.init, state, tell=tell)
            else:
                self._found_alive(incarnation, state, as_of, tell=tell)
        return incarnation

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
            self._init_started(incarnation)
            self._phase(incarnation, state.phase)

    def _observe_exec(self, process: ProcessRecord, state: TaskState, as_of: int, *, tell: bool) -> None:
        if process.accepted is not None:
            return
        if state.phase is Phase.CREATED and state.exit is None:
            _not_started(process)
        elif process.pid is None:
            self._exec_started(process, state.pid)
        if process.pid is not None and state.pid not in {0, process.pid}:
            self._verdicts.gone(process, tell=tell)
        elif state.exit is not None:
            self._found_exit(process, state, tell=tell)
        else:
            self._verdicts.lives(process, as_of)
            self._settle(process, as_of)

    def _absent(self, process: ProcessRecord, as_of: int, *, tell: bool = False) -> None:
        if process.exec_id:
            if process.opened <= as_of:
                self._verdicts.gone(process, tell=tell)
            return
        for incarnation in self._memory.all(*process.incarnation.key):
            if incarnation.open and incarnation.opened <= as_of:
                self._verdicts.gone(incarnation.init, tell=tell)
        if process.opened <= as_of:
            self._verdicts.gone(process, tell=tell)  # though it may be forgotten under its name

    def _others_gone(self, incarnation: Incarnation, as_of: int, *, tell: bool = False) -> None:
        """Take it that `incarnation` had its name at `as_of`: whatever had it before is over."""
        for other in self._memory.all(*incarnation.key):
            if other is not incarnation and other.open and other.opened <= as_of:
                self._verdicts.gone(other.init, tell=tell)

    # --- small things -------------------------------------------------------------------------------------------------

    def _open(self, namespace: str, container_id: str, pid: int, *, behind: bool = False) -> Incarnation:
        incarnation = Incarnation(namespace, container_id, pid, self._turn.moment)
        formers = self._memory.all(namespace, container_id)
        if formers:
            incarnation.init.former_pids = tuple({i.pid for i in formers})
        self._memory.add(incarnation, behind=behind)
        return incarnation

    def _open_past(self, namespace: str, container_id: str, pid: int) -> ProcessRecord:
        """Open a life that is first heard of by its end: the reply that tells us of it may be on its way."""
        latest = self._memory.latest(namespace, container_id)
        return self._open(namespace, container_id, pid, behind=latest is not None and latest.open).init

    def _open_doubting(self, known: Incarnation, *, inherited: bool = True) -> Incarnation:
        """Open a life under the pid of one that ended, whose exit may be its own."""
        incarnation = self._open(*known.key, known.pid)
        incarnation.announced = known.announced
        if known.init.accepted is not None:
            self._verdicts.doubt(incarnation.init, known.init.accepted, inherited=inherited)
        return incarnation

    def _take_handle(self, incarnation: Incarnation, as_of: int) -> None:
        self._verdicts.watch(incarnation)
        if as_of < self._listed and incarnation.open:
            self._questions.ask(incarnation.init)  # what was missed since `as_of` was not looked for

    def _follow(self, incarnation: Incarnation) -> None:
        """Watch a task that is known to have been there, if those of its namespace are followed."""
        if self.followed(incarnation.namespace):
            self._verdicts.watch(incarnation)

    def _init_started(self, incarnation: Incarnation) -> None:
        process = incarnation.init
        if process.started or process.exit is not None:
            return
        process.started = True
        if incarnation.open and incarnation.phase is Phase.CREATED:  # or its pause was heard of first
            incarnation.phase, incarnation.phase_since = Phase.RUNNING, self._turn.moment
        if incarnation.watched:
            self._turn.effects.append(Started(process))

    def _exec_started(self, process: ProcessRecord, pid: int) -> None:
        first = not process.started and process.accepted is None
        process.started = True
        if first:
            self._turn.effects.append(Started(process))
        if process.accepted is None and process.pid != pid:
            self._verdicts.pid_known(process, pid)

    def _phase(self, incarnation: Incarnation, phase: Phase) -> None:
        incarnation.phase_since = self._turn.moment
        if incarnation.open and incarnation.phase is not phase:
            incarnation.phase = phase
            if incarnation.watched:
                self._turn.effects.append(PhaseChanged(incarnation, phase))

    def _settle(self, process: ProcessRecord, as_of: int) -> None:
        """Drop the question about a process that lives, if that answers it."""
        question = process.question
        if question is not None and not process.doubts and as_of >= question.since and not question.sent:
            self._questions.drop(process)


def _not_started(process: ProcessRecord) -> None:
    process.started = process.started or False


def _status(event: TaskExit | TaskDelete, source: Literal["event", "task-delete"]) -> ExitStatus:
    # Without a pid, 255 is what containerd says when it could not learn the code.
    lost = event.pid == 0 and event.exit_status == UNKNOWN_EXIT_STATUS
    return ExitStatus(
        code=event.exit_status,
        exited_at_ns=event.exited_at_ns,
        pid=event.pid,
        oom_known=not lost,
        unknown=lost,
        source=source,
    )


def _news(process: ProcessRecord, event: Event) -> bool:
    """Return whether subscribers have not been told `event` by a synthesised one."""
    if event.topic not in process.told:
        return True
    process.told -= {event.topic}
    return False
