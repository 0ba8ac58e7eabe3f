"""The opening of incarnations, and how far they come before they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio.events.effects import PhaseChanged, Started
from containerd_aio.events.records import Incarnation, Phase, ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from containerd_aio.events.memory import Memory
    from containerd_aio.events.turn import Turn
    from containerd_aio.events.verdicts import Verdicts


class Incarnations:
    """Opens incarnations and notes their progress.

    Args:
        turn: The turn of the registry.
        memory: The incarnations.
        verdicts: Decides how they end.

    Attributes:
        followed: Tells of a namespace whether its tasks are watched though nobody holds a handle.
    """

    def __init__(self, turn: Turn, memory: Memory, verdicts: Verdicts) -> None:
        self._turn = turn
        self._memory = memory
        self._verdicts = verdicts
        self.followed: Callable[[str], bool] = lambda _: False

    def open(self, namespace: str, container_id: str, pid: int, *, behind: bool = False) -> Incarnation:
        """Open an incarnation that was just heard of, as the latest of its name or `behind` that."""
        incarnation = Incarnation(namespace, container_id, pid, self._turn.moment)
        formers = self._memory.all(namespace, container_id)
        if formers:
            incarnation.init.former_pids = tuple({i.pid for i in formers})
        self._memory.add(incarnation, behind=behind)
        return incarnation

    def open_past(self, namespace: str, container_id: str, pid: int) -> ProcessRecord:
        """Open a life that is first heard of by its end: the reply that tells us of it may be on its way."""
        latest = self._memory.latest(namespace, container_id)
        return self.open(namespace, container_id, pid, behind=latest is not None and latest.open).init

    def open_doubting(self, known: Incarnation, *, inherited: bool = True) -> Incarnation:
        """Open a life under the pid of one that ended, whose exit may be its own."""
        incarnation = self.open(*known.key, known.pid)
        incarnation.announced = known.announced
        if known.init.accepted is not None:
            self._verdicts.doubt(incarnation.init, known.init.accepted, inherited=inherited)
        return incarnation

    def follow(self, incarnation: Incarnation) -> None:
        """Watch a task that is known to have been there, if those of its namespace are followed."""
        if self.followed(incarnation.namespace):
            self._verdicts.watch(incarnation)

    def restored(self, incarnation: Incarnation, pid: int) -> bool:
        """Take the pid of a task made from a checkpoint: it has none before its start.

        Returns:
            Whether it is one.
        """
        if incarnation.pid or not pid or incarnation.init.fallback is not None:
            return False  # a fallback: what was first heard of is its end, and that had no pid
        told = self._memory.find(*incarnation.key, pid)
        incarnation.pid = incarnation.init.pid = pid
        if told is not None and told.init.accepted is not None and told.opened > incarnation.opened:
            self._verdicts.accept(incarnation.init, told.init.accepted)  # it ended before its pid was known
        return True

    def find(self, namespace: str, container_id: str, pid: int) -> Incarnation | None:
        """Return the newest incarnation of a container with `pid`; one made from a checkpoint gets to know it by this."""
        known = self._memory.find(namespace, container_id, pid)
        latest = self._memory.latest(namespace, container_id)
        if known is None and latest is not None and latest.open and self.restored(latest, pid):
            return latest
        return known

    def init_started(self, incarnation: Incarnation) -> None:
        """Note that init was started, from whichever word of it comes first."""
        process = incarnation.init
        if process.started or process.exit is not None:
            return
        process.started = True
        if incarnation.open and incarnation.phase is Phase.CREATED:  # or its pause was heard of first
            incarnation.phase, incarnation.phase_since = Phase.RUNNING, self._turn.moment
        if incarnation.watched:
            self._turn.effects.append(Started(process))

    def exec_started(self, process: ProcessRecord, pid: int) -> None:
        """Note that an exec was started, and its pid."""
        first = not process.started and process.accepted is None
        process.started = True
        if first:
            self._turn.effects.append(Started(process))
        if process.accepted is None and process.pid != pid:
            self._verdicts.pid_known(process, pid)

    def phase(self, incarnation: Incarnation, phase: Phase) -> None:
        """Note that a task runs or is paused."""
        incarnation.phase_since = self._turn.moment
        if incarnation.open and incarnation.phase is not phase:
            incarnation.phase = phase
            if incarnation.watched:
                self._turn.effects.append(PhaseChanged(incarnation, phase))
