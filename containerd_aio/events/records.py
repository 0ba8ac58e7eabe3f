"""What is known of a task: one `Incarnation` per life, one `ProcessRecord` per process in it.

A container id is not an identity: tasks come and go under it, exits arrive twice or late, pids are used again. What is
known is therefore kept per incarnation, which opens with a create and closes with a decided exit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.events.model import Event


class Phase(Enum):
    """How far an incarnation has come, as far as the evidence goes."""

    PENDING = "pending"  # our create was sent, the reply is not here
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    CLOSED = "closed"  # init's exit is decided


@dataclass(slots=True, eq=False, weakref_slot=True)
class ProcessRecord:
    """One process of an incarnation: init, or an exec.

    Attributes:
        incarnation: The life it belongs to.
        exec_id: Id of the exec; empty for init.
        pid: Host pid; None while it is not known.
        exit: The decided exit; never changes, except that a late OOM sets its flag.
        started: Whether a start was confirmed, by reply or event.
        failed: Whether the start failed: no exit will come.
        held: Exits that arrived before the pid was known and can't be judged yet.
    """

    incarnation: Incarnation
    exec_id: str
    pid: int | None = None
    exit: ExitStatus | None = None
    started: bool = False
    failed: bool = False
    held: list[ExitStatus] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The exec id, or the container id for init: what `TaskExit.id` says."""
        return self.exec_id or self.incarnation.container_id


@dataclass(slots=True, eq=False, weakref_slot=True)
class Incarnation:
    """One life of a task.

    Attributes:
        namespace: Namespace of the container.
        container_id: Id of the container.
        watched: Whether somebody holds a handle; only then are RPCs spent on its truth.
        phase: How far it has come.
        oom: Whether an OOM kill in it was reported or found.
        verdict: The accepted exit while its OOM flag is still being looked up.
        fallback: What its exit will be if nothing better comes before `fallback_at`.
        confirm_at: When to ask the daemon (again) whether it lives.
        confirm_delay: Seconds until the next such question.
        confirms: How many answers in a row said that it lives although an exit was seen.
        synthesised: Whether its exit was told to subscribers without an event from the daemon.
        closed_at: When its exit was decided, on the clock of the registry.
    """

    namespace: str
    container_id: str
    watched: bool = False
    phase: Phase = Phase.RUNNING
    oom: bool = False
    verdict: ExitStatus | None = None
    verdict_at: float | None = None
    fallback: ExitStatus | None = None
    fallback_at: float | None = None
    confirm_at: float | None = None
    confirm_delay: float = 0.0
    confirms: int = 0
    synthesised: bool = False
    closed_at: float | None = None
    previous_pid: int | None = None
    execs: dict[str, ProcessRecord] = field(default_factory=dict)
    init: ProcessRecord = field(init=False)

    def __post_init__(self) -> None:
        self.init = ProcessRecord(self, "")

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and container id."""
        return self.namespace, self.container_id

    @property
    def open(self) -> bool:
        """Whether init's exit is still to be decided."""
        return self.phase is not Phase.CLOSED


@dataclass(frozen=True, slots=True)
class Decided:
    """Effect: the exit of `process` is now known; whoever waits for it can go on."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class Amended:
    """Effect: an OOM kill came to light after the exit of `process` had been decided."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class Confirm:
    """Effect: ask the daemon for the state of `incarnation` (Tasks.Get) and report the answer."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class CheckOOM:
    """Effect: ask the daemon whether the kernel OOM-killed in `incarnation` (Tasks.Metrics) and report the answer."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Synthesised:
    """Effect: tell subscribers `event`, which the daemon did not send or sent while nobody listened."""

    event: Event


Effect = Decided | Amended | Confirm | CheckOOM | Synthesised
