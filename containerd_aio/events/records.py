"""What is known of a task: one `Incarnation` per life, one `ProcessRecord` per process in it.

A container id is not an identity: tasks come and go under it, exits arrive twice or late, pids are used again. What is
known is therefore kept per incarnation, which opens when a task is first heard of and closes when an exit of its init
process is accepted.

Order is kept in *moments*: the registry counts the pieces of evidence it takes. Of an answer only one thing is certain,
that it is not older than its question; so whoever asks notes the moment (``as_of``), and the answer is no argument
against anything learnt after it. Clocks are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.events.questions import Question


# So many execs of one incarnation are remembered, besides those that have not ended.
PAST_EXECS = 64


class Phase(Enum):
    """How far a task that has not ended has come."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"


@dataclass(slots=True)
class Doubt:
    """An exit that may be this process's, or that of an earlier process with its name.

    Attributes:
        status: What the exit says.
        since: Moment it arrived.
        at: When it arrived, on the clock of the registry.
        inherited: Whether it is rather that of an earlier incarnation with the same pid.
        denied: Whether the daemon has said since that the process runs.
    """

    status: ExitStatus
    since: int
    at: float
    inherited: bool = False
    denied: bool = False


@dataclass(slots=True, eq=False, weakref_slot=True)
class ProcessRecord:
    """One process of an incarnation: init, or an exec of ours.

    Attributes:
        incarnation: The life it belongs to.
        exec_id: Id of the exec; empty for init.
        pid: Host pid; None while it is not known, which only happens to execs.
        opened: Moment it was first heard of.
        started: Whether it was started; None when a start failed in a way that leaves it open.
        accepted: The first acceptable evidence of its exit; nothing replaces it.
        ended: Moment that evidence was accepted.
        exit: The decided exit: what was accepted and, where that mattered, whether it was an OOM kill. It never
            changes, except that a late OOM report sets its flag. None as long as nobody holds a handle.
        fallback: What its exit will be unless something better comes within a grace.
        fallback_since: Moment that was concluded.
        doubts: Exits that can't be attributed without asking the daemon.
        former_pids: Pids of earlier processes under the same name: an exit with one of them may be a late copy.
        former: The exec that had this id before, while its exit is not known.
        question: What the daemon is being asked about it.
        tell: Whether subscribers missed its exit and must be told by a synthesised event.
        told: Topics of the events about it that were synthesised, so that the daemon's own are not repeated.
    """

    incarnation: Incarnation
    exec_id: str = ""
    pid: int | None = None
    opened: int = 0
    started: bool | None = False
    accepted: ExitStatus | None = None
    ended: int = 0
    exit: ExitStatus | None = None
    fallback: ExitStatus | None = None
    fallback_since: int = 0
    doubts: tuple[Doubt, ...] = ()
    former_pids: tuple[int, ...] = ()
    former: ProcessRecord | None = None
    question: Question | None = None
    tell: bool = False
    told: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The exec id, or the container id for init: what `TaskExit.id` says."""
        return self.exec_id or self.incarnation.container_id

    def __repr__(self) -> str:
        state = self.exit or self.accepted or ("started" if self.started else "not started")
        return (
            f"<ProcessRecord {self.incarnation.container_id} {self.exec_id or 'init'} pid={self.pid} {state}>"
        )


@dataclass(slots=True, eq=False, weakref_slot=True)
class Incarnation:
    """One life of a task.

    Attributes:
        namespace: Namespace of the container.
        container_id: Id of the container.
        init: The init process.
        execs: The execs of ours, by id; the latest of each.
        former: An earlier incarnation under the same id that is still remembered.
        phase: How far it has come.
        phase_since: Moment the phase was learnt.
        watched: Whether somebody holds a handle; only then are RPCs spent on OOM questions and exits decided.
        announced: Whether its TaskCreate was seen, or can't come any more: its TaskDelete was.
        deleted: Moment its deletion was learnt; 0 before that.
        closed_at: When its exit was accepted, on the clock of the registry.
        oom: Whether an OOM kill in it was reported or found.
        oom_ruled_out: Whether its cgroup was read after its end and counted none: late reports are not about it.
        oom_contested: The incarnation that an OOM report belongs to if this one's cgroup counted none.
    """

    namespace: str
    container_id: str
    pid: int
    opened: int
    phase: Phase = Phase.CREATED
    phase_since: int = 0
    watched: bool = False
    announced: bool = False
    deleted: int = 0
    closed_at: float = 0.0
    oom: bool = False
    oom_ruled_out: bool = False
    oom_contested: Incarnation | None = None
    former: Incarnation | None = None
    execs: dict[str, ProcessRecord] = field(default_factory=dict)
    init: ProcessRecord = field(init=False)

    def __post_init__(self) -> None:
        self.init = ProcessRecord(self, pid=self.pid, opened=self.opened)

    def add_exec(self, process: ProcessRecord) -> None:
        """Take in an exec; of those that ended only the last are kept, for events that come twice."""
        self.execs[process.exec_id] = process
        if len(self.execs) > PAST_EXECS:
            past = [e for e, p in self.execs.items() if p.exit is not None]
            for exec_id in past[: len(self.execs) - PAST_EXECS]:
                del self.execs[exec_id]

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and container id."""
        return self.namespace, self.container_id

    @property
    def open(self) -> bool:
        """Whether no exit of init has been accepted."""
        return self.init.accepted is None

    def __repr__(self) -> str:
        return f"<Incarnation {self.namespace}/{self.container_id} pid={self.pid} {'open' if self.open else 'closed'}>"


Due: TypeAlias = "tuple[Literal['ask', 'fallback', 'oom', 'execs'], ProcessRecord]"
"""What a deadline is for: a question, a fallback, an OOM question, the execs of a dead init process."""
