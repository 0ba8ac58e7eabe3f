"""The reducer at the heart of the event core: evidence in, decisions out.

Nothing here waits or talks to anybody. Each method takes one piece of evidence (an event, an RPC reply, the passing of
time) and returns what follows from it as `Effect` values; the hub carries them out. So every ordering of the evidence
can be tried in a test, and none needs a clock or a daemon.

Rules, in the words of docs/architecture.md: the first accepted exit is final; an exit is attributed by incarnation and
pid, never by time; a failed RPC is no evidence; an exit that nobody can tell is 255 and says so.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
from containerd_aio.events.model import (
    Event,
    TaskCreate,
    TaskDelete,
    TaskExecAdded,
    TaskExecStarted,
    TaskExit,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)
from containerd_aio.events.records import (
    Amended,
    CheckOOM,
    Confirm,
    Decided,
    Effect,
    Incarnation,
    Phase,
    ProcessRecord,
    Synthesised,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_aio.events.resync import TaskState

# Seconds. How long a better source is waited for:
DELETE_GRACE = 0.25  # 1.7 and 2.x send TaskExit after TaskDelete
MISSING_GRACE = 0.5  # the exit may be among the events that are read already
EXEC_GRACE = 1.0  # the exit of an exec may follow init's
OOM_CHECK_LIMIT = 1.0  # Tasks.Metrics on a stopped task
LATE_OOM = (
    2.0  # an OOM this soon after an exit, with the next create on its way, belongs to the one that died
)
CONFIRM_FIRST, CONFIRM_MAX = 0.1, 5.0
# So often "it is running" must be said before an exit that claims otherwise is dropped as stale: Get may lag.
CONFIRM_STALE = 3

SIGKILLED = 137


class Registry:
    """What is known of every task, and who is right when sources disagree.

    Args:
        remember: How many closed incarnations without a handle are kept, oldest dropped first.
    """

    def __init__(self, *, remember: int = 100_000) -> None:
        self._current: OrderedDict[tuple[str, str], Incarnation] = OrderedDict()
        self._previous: dict[tuple[str, str], Incarnation] = {}
        self._timed: set[Incarnation] = set()
        self._remember = remember
        self._closed = 0
        self.stale_exits = 0
        self.duplicate_exits = 0

    # --- looking ------------------------------------------------------------------------------------------------------

    def current(self, namespace: str, container_id: str) -> Incarnation | None:
        """Return the latest incarnation of a container, open or closed."""
        return self._current.get((namespace, container_id))

    def open_incarnations(self) -> Iterator[Incarnation]:
        """Yield every incarnation whose exit is still to come and whose create has been answered."""
        for incarnation in list(self._current.values()):
            if incarnation.open and incarnation.phase is not Phase.PENDING:
                yield incarnation
        for incarnation in list(self._previous.values()):
            if incarnation.open:
                yield incarnation

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do; None when nothing is pending."""
        times = [
            t
            for i in self._timed
            for t in (i.fallback_at, i.verdict_at, i.confirm_at, i.closed_at and i.closed_at + EXEC_GRACE)
            if t is not None
        ]
        return min(times, default=None)

    # --- our own calls ------------------------------------------------------------------------------------------------

    def creating(self, namespace: str, container_id: str) -> Incarnation:
        """Open the incarnation of a create that is about to be sent."""
        incarnation = self._open(namespace, container_id, Phase.PENDING)
        incarnation.watched = True
        return incarnation

    def created(self, incarnation: Incarnation, pid: int, now: float) -> list[Effect]:
        """Take the reply to our create: the pid of init."""
        effects: list[Effect] = []
        if incarnation.phase is Phase.PENDING:
            incarnation.phase = Phase.CREATED
        previous = self._previous.get(incarnation.key)
        if previous is not None and previous.open:
            # The daemon took the name again, so the old life is over whether or not its exit was seen.
            self._set_fallback(previous, self._missing_status(previous), now + MISSING_GRACE)
        return effects + self._pid_known(incarnation.init, pid, now)

    def create_failed(self, incarnation: Incarnation) -> None:
        """Forget the incarnation of a create that failed."""
        incarnation.phase = Phase.CLOSED
        incarnation.init.failed = True
        self._timed.discard(incarnation)
        if self._current.get(incarnation.key) is incarnation:
            del self._current[incarnation.key]
            previous = self._previous.pop(incarnation.key, None)
            if previous is not None:
                self._current[incarnation.key] = previous

    def exec_adding(self, incarnation: Incarnation, exec_id: str) -> ProcessRecord:
        """Note an exec that we are about to add; a former one of that id is forgotten."""
        record = incarnation.execs[exec_id] = ProcessRecord(incarnation, exec_id)
        return record

    def started(self, process: ProcessRecord, pid: int, now: float) -> list[Effect]:
        """Take the reply to our start."""
        process.started = True
        if not process.exec_id and process.incarnation.phase is Phase.CREATED:
            process.incarnation.phase = Phase.RUNNING
        return self._pid_known(process, pid, now)

    def start_failed(self, process: ProcessRecord) -> None:
        """Note that our start failed: no exit is to be expected of an exec (init still gets one when it is deleted)."""
        if process.exec_id:
            process.failed = True
            process.held.clear()

    def deleted(self, process: ProcessRecord, status: ExitStatus, now: float) -> list[Effect]:
        """Take the exit that the reply to our delete carries."""
        if process.exec_id:
            return self._decide_exec(process, status)
        return self._accept(process.incarnation, status, now)

    def watch(self, namespace: str, container_id: str) -> Incarnation:
        """Note that somebody takes a handle on a task that exists (Task of `Container.task`), before it is looked up."""
        incarnation = self._current.get((namespace, container_id))
        if incarnation is None:
            incarnation = self._open(namespace, container_id, Phase.RUNNING)
        incarnation.watched = True
        return incarnation

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, event: Event, now: float) -> tuple[list[Effect], bool]:
        """Take an event of the daemon.

        Returns:
            What follows from it, and whether subscribers shall see it (an exit that was already told to them as found
            by a resync is not repeated).
        """
        match event:
            case TaskExit():
                return self._exit_event(event, now)
            case TaskCreate():
                return self._create_event(event, now), True
            case TaskStart():
                return self._start_event(event, now), True
            case TaskDelete():
                return self._delete_event(event, now), True
            case TaskOOM():
                return self._oom_event(event, now), True
            case TaskPaused() | TaskResumed():
                incarnation = self._current.get((event.namespace, event.container_id))
                if incarnation is not None and incarnation.phase in {Phase.RUNNING, Phase.PAUSED}:
                    incarnation.phase = Phase.PAUSED if isinstance(event, TaskPaused) else Phase.RUNNING
                return [], True
            case TaskExecAdded() | TaskExecStarted():
                return self._exec_event(event, now), True
            case _:
                return [], True

    def _create_event(self, event: TaskCreate, now: float) -> list[Effect]:
        incarnation = self._current.get((event.namespace, event.container_id))
        if incarnation is not None and incarnation.open:
            known = incarnation.init.pid
            if known is None:
                return self._pid_known(incarnation.init, event.pid, now)
            if known == event.pid:
                return []
            self._set_fallback(incarnation, self._missing_status(incarnation), now + MISSING_GRACE)
        incarnation = self._open(event.namespace, event.container_id, Phase.CREATED)
        return self._pid_known(incarnation.init, event.pid, now)

    def _start_event(self, event: TaskStart, now: float) -> list[Effect]:
        incarnation = self._current.get((event.namespace, event.container_id))
        if incarnation is None:
            incarnation = self._open(event.namespace, event.container_id, Phase.RUNNING)
        if not incarnation.open or incarnation.init.pid not in {None, event.pid}:
            return []
        incarnation.init.started = True
        if incarnation.phase is Phase.CREATED:
            incarnation.phase = Phase.RUNNING
        return [] if incarnation.phase is Phase.PENDING else self._pid_known(incarnation.init, event.pid, now)

    def _exec_event(self, event: TaskExecAdded | TaskExecStarted, now: float) -> list[Effect]:
        incarnation = self._current.get((event.namespace, event.container_id))
        if incarnation is None:
            return []
        record = incarnation.execs.get(event.exec_id)
        if record is None or (record.exit is not None and isinstance(event, TaskExecAdded)):
            record = self.exec_adding(incarnation, event.exec_id)
        if isinstance(event, TaskExecStarted) and not record.failed:
            record.started = True
            return self._pid_known(record, event.pid, now)
        return []

    def _exit_event(self, event: TaskExit, now: float) -> tuple[list[Effect], bool]:
        status = ExitStatus(
            code=event.exit_status, exited_at_ns=event.exited_at_ns, pid=event.pid, source="event"
        )
        key = (event.namespace, event.container_id)
        current, previous = self._current.get(key), self._previous.get(key)
        if current is None:
            # Nobody knows the task; what it ended with is remembered for whoever asks within this life.
            current = self._open(*key, Phase.RUNNING)
            if event.id in {"", event.container_id}:
                current.init.pid = event.pid or None
        for incarnation in (current, previous):
            record = self._process_of(incarnation, event) if incarnation is not None else None
            if record is not None and record.exec_id:
                return self._exec_exit(record, status), True
            if record is not None:
                repeated = record.exit is not None and record.incarnation.synthesised
                return self._init_exit(record, status, now), not repeated
        self.stale_exits += 1
        return [], True

    def _process_of(self, incarnation: Incarnation, event: TaskExit) -> ProcessRecord | None:
        """Return whose exit `event` is in `incarnation`; None when it is of none of its processes.

        An exec may bear the container's id, so the id alone does not tell init from it: the pid does.
        """
        execution = incarnation.execs.get(event.id)
        init = incarnation.init if event.id in {"", incarnation.container_id} else None
        if init is not None and execution is not None:
            is_init = event.pid == init.pid or execution.pid not in {None, event.pid}
            return init if is_init else execution
        record = execution or init
        if record is None or (record.pid is not None and event.pid not in {0, record.pid}):
            return None
        return record

    def _init_exit(self, record: ProcessRecord, status: ExitStatus, now: float) -> list[Effect]:
        incarnation = record.incarnation
        if record.exit is not None:
            self.duplicate_exits += 1
            return []
        if record.pid is None and incarnation.phase is Phase.PENDING:
            record.held.append(status)
            return []
        if status.pid and status.pid == incarnation.previous_pid:
            # The pid was used again: this may be a late copy of the former exit. Only the daemon can tell.
            record.held.append(status)
            return self._ask(incarnation, now)
        return self._accept(incarnation, status, now)

    def _exec_exit(self, record: ProcessRecord, status: ExitStatus) -> list[Effect]:
        if record.exit is not None:
            self.duplicate_exits += 1
            return []
        if record.pid is None and not record.started:
            record.held.append(status)
            return []
        return self._decide_exec(record, status)

    def _delete_event(self, event: TaskDelete, now: float) -> list[Effect]:
        if event.id not in {"", event.container_id}:
            return []
        status = ExitStatus(
            code=event.exit_status, exited_at_ns=event.exited_at_ns, pid=event.pid, source="task-delete"
        )
        key = (event.namespace, event.container_id)
        for incarnation in (self._current.get(key), self._previous.get(key)):
            if incarnation is None or not incarnation.open or incarnation.verdict is not None:
                continue
            if incarnation.init.pid is not None and event.pid in {0, incarnation.init.pid}:
                self._set_fallback(incarnation, status, now + DELETE_GRACE)
                break
        return []

    def _oom_event(self, event: TaskOOM, now: float) -> list[Effect]:
        key = (event.namespace, event.container_id)
        incarnation, previous = self._current.get(key), self._previous.get(key)
        if incarnation is not None and incarnation.phase is Phase.PENDING and previous is not None:
            # Nothing runs in it yet that could have been killed.
            died = previous.closed_at
            incarnation = previous if died is None or now - died < LATE_OOM else None
        return [] if incarnation is None else self._oom_found(incarnation, now)

    def _oom_found(self, incarnation: Incarnation, now: float) -> list[Effect]:
        incarnation.oom = True
        if incarnation.verdict is not None:
            return self._close(incarnation, now)
        record = incarnation.init
        if record.exit is not None and not record.exit.oom_killed and not record.exit.unknown:
            record.exit = replace(record.exit, oom_killed=True, oom_known=True)
            return [Amended(record)]
        return []

    # --- answers to the hub's questions -------------------------------------------------------------------------------

    def observed(self, state: TaskState, now: float, *, tell: bool = False) -> list[Effect]:
        """Take the state of a task from Tasks.Get or Tasks.List.

        Args:
            state: What the daemon says.
            now: The clock.
            tell: Whether subscribers missed the events that led there and are to be told by synthesised ones.
        """
        effects: list[Effect] = []
        incarnation = self._current.get(state.key)
        if incarnation is not None and incarnation.phase is Phase.PENDING:
            return []  # our create is on its way: its reply says more
        if incarnation is None or incarnation.init.pid not in {None, state.pid} or not incarnation.open:
            if incarnation is not None and incarnation.init.pid == state.pid:
                return []  # stopped, and known to be
            if incarnation is not None and incarnation.open:
                self._set_fallback(incarnation, self._missing_status(incarnation), now)
                effects += self.tick(now)
            incarnation = self._open(*state.key, Phase.CREATED)
            if tell:
                effects += [Synthesised(event) for event in state.appeared()]
        incarnation.confirm_at = None
        effects += self._pid_known(incarnation.init, state.pid, now) if state.pid else []
        if state.exit is not None:
            if tell and incarnation.open and not incarnation.synthesised:
                incarnation.synthesised = True
                effects.append(Synthesised(state.exit_event()))
            return effects + self._accept(incarnation, state.exit, now)
        effects += self._alive(incarnation, state, now, tell=tell)
        return effects

    def _alive(self, incarnation: Incarnation, state: TaskState, now: float, *, tell: bool) -> list[Effect]:
        if not incarnation.open:
            return []
        self._unset_fallback(incarnation)
        if incarnation.init.held:
            incarnation.confirms += 1
            if incarnation.confirms < CONFIRM_STALE:
                return self._ask(incarnation, now)
            self.stale_exits += len(incarnation.init.held)
            incarnation.init.held.clear()
        told: list[Effect] = []
        if tell and {incarnation.phase, state.phase} == {Phase.RUNNING, Phase.PAUSED}:
            told.append(Synthesised(state.pause_event()))
        incarnation.phase = state.phase
        incarnation.init.started = incarnation.init.started or state.phase is not Phase.CREATED
        return told

    def missing(self, incarnation: Incarnation, now: float, *, tell: bool = False) -> list[Effect]:
        """Take the daemon's word that there is no such task (Tasks.Get: NOT_FOUND)."""
        incarnation.confirm_at = None
        if not incarnation.open or incarnation.phase is Phase.PENDING or incarnation.verdict is not None:
            return []
        if incarnation.init.held:
            return self._accept(incarnation, incarnation.init.held[0], now)
        if incarnation.fallback is None:
            incarnation.synthesised = tell
            self._set_fallback(incarnation, self._missing_status(incarnation), now + MISSING_GRACE)
        return []

    def unclear(self, incarnation: Incarnation, now: float) -> None:
        """Note that the question could not be answered (the daemon is away, the shim is silent): ask again later."""
        if incarnation.open:
            incarnation.confirm_delay = min(max(CONFIRM_FIRST, incarnation.confirm_delay * 2), CONFIRM_MAX)
            incarnation.confirm_at = now + incarnation.confirm_delay
            self._timed.add(incarnation)

    def oom_checked(self, incarnation: Incarnation, killed: bool | None, now: float) -> list[Effect]:
        """Take the answer to `CheckOOM`; None when it could not be had."""
        if incarnation.verdict is None:
            return self._oom_found(incarnation, now) if killed else []
        incarnation.oom = incarnation.oom or bool(killed)
        if killed is None and not incarnation.oom:
            incarnation.verdict = replace(incarnation.verdict, oom_known=False)
        return self._close(incarnation, now)

    def tick(self, now: float) -> list[Effect]:
        """Let time pass: what waited for something better waits no longer."""
        effects: list[Effect] = []
        for incarnation in list(self._timed):
            if incarnation.fallback is not None and now >= (incarnation.fallback_at or 0):
                told = incarnation.synthesised and incarnation.fallback.unknown
                effects += [Synthesised(_vanished(incarnation))] if told else []
                effects += self._accept(incarnation, incarnation.fallback, now)
            if incarnation.verdict_at is not None and now >= incarnation.verdict_at:
                effects += self.oom_checked(incarnation, None, now)
            if incarnation.confirm_at is not None and now >= incarnation.confirm_at:
                incarnation.confirm_at = None
                effects.append(Confirm(incarnation))
            if incarnation.closed_at is not None and now >= incarnation.closed_at + EXEC_GRACE:
                effects += self._abandon_execs(incarnation)
                self._timed.discard(incarnation)
        return effects

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _pid_known(self, process: ProcessRecord, pid: int, now: float) -> list[Effect]:
        if process.pid is None:
            process.pid = pid
        held, process.held = process.held, []
        effects: list[Effect] = []
        for status in held:
            if status.pid not in {0, pid}:
                self.stale_exits += 1
            elif process.exec_id:
                effects += self._exec_exit(process, status)
            else:
                effects += self._init_exit(process, status, now)
        return effects

    def _accept(self, incarnation: Incarnation, status: ExitStatus, now: float) -> list[Effect]:
        """Take `status` for the exit of init, if none was taken before; its OOM flag may need a look first."""
        if not incarnation.open or incarnation.verdict is not None:
            return []
        self._unset_fallback(incarnation)
        incarnation.confirm_at = None
        incarnation.init.held.clear()
        incarnation.verdict = status
        suspicious = status.code == SIGKILLED and not status.unknown and not incarnation.oom
        if suspicious and incarnation.watched:
            incarnation.verdict_at = now + OOM_CHECK_LIMIT
            self._timed.add(incarnation)
            return [CheckOOM(incarnation)]
        if suspicious:
            incarnation.verdict = replace(status, oom_known=False)
        return self._close(incarnation, now)

    def _close(self, incarnation: Incarnation, now: float) -> list[Effect]:
        status = incarnation.verdict
        assert status is not None
        record = incarnation.init
        record.exit = replace(status, oom_killed=status.oom_killed or incarnation.oom)
        incarnation.verdict = incarnation.verdict_at = None
        incarnation.phase = Phase.CLOSED
        incarnation.closed_at = now
        if any(e.exit is None and not e.failed for e in incarnation.execs.values()):
            self._timed.add(incarnation)
        else:
            self._timed.discard(incarnation)
        self._closed += 1
        self._forget_oldest()
        return [Decided(record)]

    def _decide_exec(self, record: ProcessRecord, status: ExitStatus) -> list[Effect]:
        if record.exit is not None:
            return []
        record.exit = status
        return [Decided(record)]

    def _abandon_execs(self, incarnation: Incarnation) -> list[Effect]:
        effects: list[Effect] = []
        for record in incarnation.execs.values():
            if record.exit is None and record.started:
                effects += self._decide_exec(
                    record,
                    ExitStatus(
                        code=UNKNOWN_EXIT_STATUS,
                        exited_at_ns=None,
                        pid=record.pid or 0,
                        unknown=True,
                        source="exec-orphaned",
                    ),
                )
        return effects

    # --- small things -------------------------------------------------------------------------------------------------

    def _open(self, namespace: str, container_id: str, phase: Phase) -> Incarnation:
        key = (namespace, container_id)
        incarnation = Incarnation(namespace, container_id, phase=phase)
        former = self._current.pop(key, None)
        if former is not None:
            incarnation.previous_pid = former.init.pid
            if not former.open:
                self._closed -= 1
            self._previous[key] = former
        self._current[key] = incarnation
        return incarnation

    def _ask(self, incarnation: Incarnation, now: float) -> list[Effect]:
        if incarnation.confirms:
            self.unclear(incarnation, now)
            return []
        return [Confirm(incarnation)]

    def _set_fallback(self, incarnation: Incarnation, status: ExitStatus, at: float) -> None:
        incarnation.fallback, incarnation.fallback_at = status, at
        self._timed.add(incarnation)

    def _unset_fallback(self, incarnation: Incarnation) -> None:
        incarnation.fallback = incarnation.fallback_at = None

    def _missing_status(self, incarnation: Incarnation) -> ExitStatus:
        return ExitStatus(
            code=UNKNOWN_EXIT_STATUS,
            exited_at_ns=None,
            pid=incarnation.init.pid or 0,
            oom_known=False,
            unknown=True,
            source="missing",
        )

    def _forget_oldest(self) -> None:
        """Keep the memory of the dead bounded; a handle keeps its own record alive."""
        while self._closed > self._remember:
            key = next(k for k, i in self._current.items() if not i.open)
            del self._current[key]
            self._previous.pop(key, None)
            self._closed -= 1


def _vanished(incarnation: Incarnation) -> TaskExit:
    return TaskExit(
        topic="/tasks/exit",
        namespace=incarnation.namespace,
        timestamp_ns=0,
        origin="resync",
        container_id=incarnation.container_id,
        id=incarnation.container_id,
        pid=incarnation.init.pid or 0,
        exit_status=UNKNOWN_EXIT_STATUS,
        exited_at_ns=None,
    )
