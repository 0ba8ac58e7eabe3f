"""What the daemon's events say of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containerd_aio.events.attribution import doubtful, init_of, is_copy, process_of
from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
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
from containerd_aio.events.records import Phase, ProcessRecord
from containerd_aio.events.verdicts import DELETE_GRACE

if TYPE_CHECKING:
    from containerd_aio.events.incarnations import Incarnations
    from containerd_aio.events.memory import Memory
    from containerd_aio.events.questions import Questions
    from containerd_aio.events.turn import Turn
    from containerd_aio.events.verdicts import Verdicts

# Seconds before the daemon is asked about an exit that the reply to our start will probably explain.
REPLY_GRACE = 0.1


class TaskEvents:
    """Takes events, in the order of the stream.

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

    def take(self, event: Event) -> bool:
        """Take an event; return whether it is news to subscribers, who may have been told it as found by a resync."""
        match event:
            case TaskExit():
                return self._exit(event)
            case TaskCreate():
                return self._create(event)
            case TaskStart():
                return self._start(event)
            case TaskDelete():
                self._delete(event)
            case TaskExecStarted():
                self._exec_start(event)
            case TaskOOM():
                self._verdicts.oom_reported(self._memory.all(event.namespace, event.container_id))
            case TaskPaused() | TaskResumed():
                latest = self._memory.latest(event.namespace, event.container_id)
                if latest is not None:
                    self._incarnations.phase(
                        latest, Phase.PAUSED if isinstance(event, TaskPaused) else Phase.RUNNING
                    )
            case _:
                pass
        return True

    def _create(self, event: TaskCreate) -> bool:
        known = self._memory.find(event.namespace, event.container_id, event.pid)
        if known is not None and (known.open or not known.announced):
            known.announced = True
            self._memory.promote(known)
            self._incarnations.follow(known)
            return _news(known.init, event)
        if known is not None:
            incarnation = self._incarnations.open_doubting(known)  # the pid again, or only the event
        else:
            incarnation = self._incarnations.open(event.namespace, event.container_id, event.pid)
        incarnation.announced = True
        self._incarnations.follow(incarnation)
        for other in self._memory.all(*incarnation.key):
            if other is not incarnation and other.open:
                self._questions.ask(other.init)  # its exit was lost, or this event is late
        return True

    def _start(self, event: TaskStart) -> bool:
        known = self._incarnations.find(event.namespace, event.container_id, event.pid)
        if known is None:
            return True
        if known.open or known.announced:
            self._incarnations.follow(known)
        self._incarnations.init_started(known)
        return _news(known.init, event)

    def _exec_start(self, event: TaskExecStarted) -> None:
        for incarnation in self._memory.all(event.namespace, event.container_id):
            process = incarnation.execs.get(event.exec_id)
            if process is not None:
                if process.pid is None and event.pid not in process.former_pids:
                    self._incarnations.exec_started(process, event.pid)
                return

    def _exit(self, event: TaskExit) -> bool:
        incarnations = self._memory.all(event.namespace, event.container_id)
        process = process_of(event, incarnations)
        status = _status(event, "event")
        if process is None:
            if event.id in {"", event.container_id}:
                self._verdicts.stale += 1
                self._verdicts.accept(
                    self._incarnations.open_past(event.namespace, event.container_id, event.pid), status
                )
            return True
        repeated = (
            "/tasks/exit" in process.told and process.accepted is not None and not process.accepted.unknown
        )
        if process.accepted is not None or any(is_copy(event, i) for i in incarnations):
            self._verdicts.duplicates += 1
        elif doubtful(process, event.pid):
            self._verdicts.doubt(process, status, delay=REPLY_GRACE if process.pid is None else 0.0)
        elif status.unknown:
            self._verdicts.fall_back(process, status, DELETE_GRACE)  # the shim may have told more
        else:
            self._verdicts.accept(process, status)
        return not repeated

    def _delete(self, event: TaskDelete) -> None:
        if event.id not in {"", event.container_id}:
            return
        init = init_of(event, self._memory.all(event.namespace, event.container_id))
        if init is None:
            init = self._incarnations.open_past(event.namespace, event.container_id, event.pid)
        init.incarnation.announced = True
        if init.accepted is None and doubtful(init, event.pid):
            self._verdicts.doubt(init, _status(event, "task-delete"))
        else:
            init.incarnation.deleted = init.incarnation.deleted or self._turn.moment
            self._verdicts.fall_back(init, _status(event, "task-delete"), DELETE_GRACE)


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
