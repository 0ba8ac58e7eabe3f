"""What happened to containers, as a daemon wants to be told: each change of state once, in an order it can rely on.

`StateReporter` is pure: what the registry concluded goes in, with the events of execs nobody here holds a handle on, and
`StateChange` values come out. For each life of a container:

* ``start-container`` or ``restore`` comes first and ``exit`` last; only a late ``oom`` may follow it.
* ``exit-process`` comes before ``exit``, which waits for the exits of execs as long as the registry does: ten seconds at
  most while the daemon can be reached.
* Every OOM report is one ``oom``.
* Lives of one container are told one after the other.
* A process that never ran (its start failed, or it was deleted before) is not told at all.

The order in which evidence arrives does not matter for this.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from containerd_aio.events.effects import Decided, OOMKilled, PhaseChanged, Started
from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
from containerd_aio.events.model import Event, TaskExecStarted, TaskExit, TaskStart
from containerd_aio.events.records import Incarnation, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.events.effects import Effect
    from containerd_aio.events.records import ProcessRecord

# Lives that ended without a start, whose start may still come: events are not always sent in order.
REMEMBER_UNSTARTED = 256

State = Literal[
    "start-container", "restore", "pause", "resume", "oom", "start-process", "exit-process", "exit"
]
"""What happened; the strings are those of Docker's libcontainerd.

* ``start-container``: the init process was started.
* ``restore``: it ran already when we began to look; ``pause`` follows if it was paused.
* ``pause``, ``resume``: all processes were frozen or thawed.
* ``oom``: the kernel killed a process of the container for lack of memory; the container may go on. Once per report.
* ``start-process``, ``exit-process``: an exec was started, or has ended. (libcontainerd never sent the former.)
* ``exit``: the init process has ended, and with it the container.
"""


@dataclass(frozen=True, slots=True)
class StateChange:
    """Something happened to a container.

    Attributes:
        state: What; see `State`.
        namespace: Namespace of the container.
        container_id: Id of the container.
        incarnation: Tells this life of the container from others that it had or will have; the same for all its changes.
        pid: Host pid of the process: of the exec for ``start-process`` and ``exit-process``, else of init; 0 when not
            known.
        process_id: Id of the exec; empty when it is about the container.
        exit_status: How the process ended, for ``exit`` and ``exit-process``; else None.
    """

    state: State
    namespace: str
    container_id: str
    incarnation: int
    pid: int = 0
    process_id: str = ""
    exit_status: ExitStatus | None = None

    @property
    def oom_killed(self) -> bool:
        """Whether this is an exit after the kernel killed in the container for lack of memory."""
        return self.exit_status is not None and self.exit_status.oom_killed


@dataclass(slots=True, eq=False)
class _Life:
    """What was told, and is still to be told, of one incarnation.

    Attributes:
        incarnation: The incarnation.
        started: Whether its start was told.
        paused: Whether the last that was told is that it is paused.
        ended: Whether its exit is decided.
        closed: Whether its exit was told, or is held.
        early_ooms: OOM reports from before its start.
        running: Execs whose start was told and whose exit was not.
        foreign: The same for execs of others: their pids by id.
        past_foreign: Id and pid of those whose exit was told last: events may come twice, or late.
        restored: Whether it ran already when we began to look, and execs in it too, perhaps.
        held: What is still to be told.
        told: Whether anything was told.
    """

    incarnation: Incarnation
    started: bool = False
    paused: bool = False
    ended: bool = False
    closed: bool = False
    early_ooms: int = 0
    running: dict[ProcessRecord, None] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)
    past_foreign: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=64))
    restored: bool = False
    held: list[StateChange] = field(default_factory=list)
    told: bool = False


class StateReporter:
    """Turns effects of the registry and events of the daemon into changes of state.

    What it keeps is of lives that have not ended, and of the latest that ended without having been started.
    """

    def __init__(self) -> None:
        self._lives: dict[tuple[str, str], list[_Life]] = {}
        self._late: list[StateChange] = []
        self._deciding: set[ProcessRecord] = set()
        self._unstarted: dict[tuple[str, str, int | None], _Life] = {}

    def __len__(self) -> int:
        """Return of how many containers something is kept."""
        return len(self._lives)

    def restore(self, incarnation: Incarnation) -> list[StateChange]:
        """Return what says that a task is there already; one that was not started yet is told of when it is."""
        if not incarnation.open or not incarnation.init.started:
            return []
        life = self._life(incarnation)
        life.restored = True
        self._begin(life, "restore")
        life.running = dict.fromkeys(e for e in incarnation.execs.values() if e.started and e.exit is None)
        if incarnation.phase is Phase.PAUSED:
            life.paused = True
            self._tell(life, "pause")
        return self._release(incarnation.key)

    def effects(self, effects: Sequence[Effect]) -> list[StateChange]:
        """Return the changes that follow from one turn of the registry.

        Args:
            effects: All that the turn returned: the records show already what comes last.
        """
        changes: list[StateChange] = []
        self._deciding = {effect.process for effect in effects if isinstance(effect, Decided)}
        for effect in effects:
            changes += self._effect(effect)
        return changes

    def _effect(self, effect: Effect) -> list[StateChange]:
        match effect:
            case Started(process) if process.exec_id:
                self._exec_started(process)
            case Started(process):
                self._begin(self._life(process.incarnation))
            case Decided(process):
                self._deciding.discard(process)
                (self._exec_decided if process.exec_id else self._init_decided)(process)
            case PhaseChanged(Incarnation(init=process), phase):
                self._phase_changed(process.incarnation, phase)
            case OOMKilled(Incarnation(init=process)):
                self._oom_killed(process.incarnation)
            case _:
                return []
        return self._release(process.incarnation.key)

    def event(self, event: Event) -> list[StateChange]:
        """Return the changes that follow from an event itself, after the registry took it.

        They are those of execs that nobody here holds a handle on, and of a start that comes after the exit.
        """
        match event:
            case TaskStart(container_id=container_id):
                self._start_came_last(event)
            case TaskExecStarted(container_id=container_id):
                self._foreign_started(event)
            case TaskExit(container_id=container_id):
                self._foreign_exited(event)
            case _:
                return []
        return self._release((event.namespace, container_id))

    # --- init ---------------------------------------------------------------------------------------------------------

    def _begin(self, life: _Life, state: State = "start-container") -> None:
        if not life.started:
            life.started = True
            self._tell(life, state)
            for _ in range(life.early_ooms):
                self._tell(life, "oom")

    def _phase_changed(self, incarnation: Incarnation, phase: Phase) -> None:
        life = self._life(incarnation)
        self._begin(life)
        paused = phase is Phase.PAUSED
        if paused != life.paused:
            life.paused = paused
            self._tell(life, "pause" if paused else "resume")

    def _oom_killed(self, incarnation: Incarnation) -> None:
        life = self._find(incarnation)
        if life is None and self._was_decided(incarnation.init):
            unstarted = self._unstarted.get((*incarnation.key, incarnation.pid))
            if _ran(incarnation.init):
                self._late.append(_change("oom", incarnation))
            elif unstarted is not None:
                unstarted.early_ooms += 1
            return
        life = life or self._life(incarnation)
        if life.started:
            self._tell(life, "oom")
        else:
            life.early_ooms += 1

    def _init_decided(self, init: ProcessRecord) -> None:
        life = self._life(init.incarnation)
        if life.started or _ran(init):
            self._begin(life)
            life.ended = True
            self._close_if_complete(life)
        else:
            self._remove(life)
            self._unstarted[*init.incarnation.key, init.pid] = life
            if len(self._unstarted) > REMEMBER_UNSTARTED:
                del self._unstarted[next(iter(self._unstarted))]

    def _start_came_last(self, event: TaskStart) -> None:
        """Tell of a life that had ended before its start was heard of."""
        life = self._unstarted.pop((event.namespace, event.container_id, event.pid), None)
        if life is not None:
            self._lives.setdefault(life.incarnation.key, []).append(life)
            self._begin(life)
            life.ended = True
            self._close_if_complete(life)

    def _close_if_complete(self, life: _Life) -> None:
        """Tell the exit, once it is decided how the execs ended: the registry sees to it that this is soon."""
        undecided = any(not self._was_decided(exec_) for exec_ in life.incarnation.execs.values())
        if not life.ended or life.closed or life.running or undecided:
            return
        for exec_id, pid in life.foreign.items():
            self._tell_foreign(life, "exit-process", exec_id, _orphaned(pid))
        self._tell(life, "exit", life.incarnation.init)
        life.closed = True

    # --- execs --------------------------------------------------------------------------------------------------------

    def _exec_started(self, process: ProcessRecord) -> None:
        life = self._find(process.incarnation)
        if life.closed if life is not None else self._was_decided(process.incarnation.init):
            return
        life = life or self._life(process.incarnation)
        self._begin(life)
        self._tell(life, "start-process", process)
        life.running[process] = None

    def _exec_decided(self, process: ProcessRecord) -> None:
        life = self._find(process.incarnation)
        if (life is None or process not in life.running) and _ran(process):
            self._exec_started(process)
            life = self._find(process.incarnation)
        if life is None:
            return
        if process in life.running:
            del life.running[process]
            self._tell(life, "exit-process", process)
        self._close_if_complete(life)

    def _foreign_started(self, event: TaskExecStarted) -> None:
        life = self._current(event)
        if life is None or (event.exec_id, event.pid) in [*life.foreign.items(), *life.past_foreign]:
            return
        ours = life.incarnation.execs.get(event.exec_id)
        if ours is None or ours.pid not in {None, event.pid}:
            life.foreign[event.exec_id] = event.pid
            self._tell_foreign(life, "start-process", event.exec_id, event.pid)

    def _foreign_exited(self, event: TaskExit) -> None:
        life = self._current(event)
        if life is None or (event.id, event.pid) in life.past_foreign:
            return
        if life.foreign.get(event.id) == event.pid:
            del life.foreign[event.id]
        elif event.id in {"", event.container_id} or event.id in life.incarnation.execs:
            return
        elif not life.restored:  # that it started was missed
            self._tell_foreign(life, "start-process", event.id, event.pid)
        life.past_foreign.append((event.id, event.pid))
        status = ExitStatus(event.exit_status, event.exited_at_ns, event.pid)
        self._tell_foreign(life, "exit-process", event.id, status)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, life: _Life, state: State, process: ProcessRecord | None = None) -> None:
        life.held.append(_change(state, life.incarnation, process))

    def _tell_foreign(self, life: _Life, state: State, exec_id: str, what: int | ExitStatus) -> None:
        pid, status = (what, None) if isinstance(what, int) else (what.pid, what)
        change = _change(state, life.incarnation)
        life.held.append(replace(change, pid=pid, process_id=exec_id, exit_status=status))

    def _release(self, key: tuple[str, str]) -> list[StateChange]:
        """Return what can be told now of a container: lives are told one after the other."""
        out, self._late = self._late, []
        progress = True
        while progress:
            progress = False
            for life in list(self._lives.get(key, ())):
                if (life.held or life.closed) and not self._must_wait(life):
                    out += life.held
                    life.held, life.told = [], True
                    if life.closed:
                        self._remove(life)
                    progress = True
        return out

    def _must_wait(self, life: _Life) -> bool:
        """Return whether another life of the container is to be told to its end first."""
        if life.told:
            return False
        if any(other.told for other in self._lives[life.incarnation.key]):
            return True
        former = life.incarnation.former
        while former is not None:
            earlier = self._find(former)
            if earlier is not None and earlier.started:
                return True
            former = former.former
        return False

    def _was_decided(self, process: ProcessRecord) -> bool:
        """Return whether a process was decided by an effect that was taken before."""
        return process.exit is not None and process not in self._deciding

    # --- lives --------------------------------------------------------------------------------------------------------

    def _find(self, incarnation: Incarnation) -> _Life | None:
        lives = self._lives.get(incarnation.key, ())
        return next((life for life in lives if life.incarnation is incarnation), None)

    def _life(self, incarnation: Incarnation) -> _Life:
        life = self._find(incarnation)
        if life is None:
            life = _Life(incarnation)
            self._lives.setdefault(incarnation.key, []).append(life)
        return life

    def _current(self, event: TaskExecStarted | TaskExit) -> _Life | None:
        """Return the life that an exec of others runs in."""
        lives = self._lives.get((event.namespace, event.container_id), ())
        return next((life for life in reversed(lives) if life.started and not life.ended), None)

    def _remove(self, life: _Life) -> None:
        lives = self._lives[life.incarnation.key]
        lives.remove(life)
        if not lives:
            del self._lives[life.incarnation.key]


def _ran(process: ProcessRecord) -> bool:
    """Return whether a process whose exit is decided had been started, though it may not have been told.

    None in `started` means that its start was refused, or never answered, and that it was not seen running since. A task
    that is killed before its start has a time of exit, too; an exec can't be killed then.
    """
    if process.started is not False or not process.exec_id:
        return bool(process.started)
    return process.exit is not None and process.exit.exited_at_ns is not None


def _change(state: State, incarnation: Incarnation, process: ProcessRecord | None = None) -> StateChange:
    process = process or incarnation.init
    return StateChange(
        state,
        incarnation.namespace,
        incarnation.container_id,
        incarnation.opened,
        process.pid or 0,
        process.exec_id,
        process.exit if state in {"exit", "exit-process"} else None,
    )


def _orphaned(pid: int) -> ExitStatus:
    return ExitStatus(UNKNOWN_EXIT_STATUS, None, pid, oom_known=False, unknown=True, source="exec-orphaned")
