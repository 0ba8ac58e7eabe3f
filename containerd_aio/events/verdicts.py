"""How a process ended: the first acceptable evidence is final, an OOM kill is looked for, an unknown exit says so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from containerd_aio.events.effects import Amended, CheckOOM, Decided, OOMKilled, Synthesised
from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
from containerd_aio.events.model import TaskExit
from containerd_aio.events.records import Doubt

if TYPE_CHECKING:
    from containerd_aio.events.deadlines import Deadlines
    from containerd_aio.events.exits import ExitSource
    from containerd_aio.events.memory import Memory
    from containerd_aio.events.questions import Questions
    from containerd_aio.events.records import Due, Incarnation, ProcessRecord
    from containerd_aio.events.turn import Turn

# Seconds for which something better is waited for:
DELETE_GRACE = 0.25  # 1.7 and 2.x may send TaskExit after TaskDelete
MISSING_GRACE = 0.5  # the exit may be among the events that were read already
EXEC_GRACE = 1.0  # the exit of an exec may follow init's
EXEC_QUESTION = 0.25  # before the daemon is asked for it
EXEC_LIMIT = 10.0  # until its answer, while it can be reached
OOM_LIMIT = 1.0  # Tasks.Metrics on a stopped task
# Seconds after an exit in which an OOM report may be about the one that died, though its successor is there.
LATE_OOM = 2.0
# Seconds by which "it runs" may lag behind an exit event; denied after that, the exit was another process's.
ANSWER_LAG = 2.0

SIGKILLED = 137  # 128 + SIGKILL: what the kernel's OOM killer does, too


class Verdicts:
    """Decides exits.

    Args:
        turn: The turn of the registry.
        memory: The incarnations.
        deadlines: Where graces and limits are kept.
        questions: Where doubts are taken to the daemon.

    Attributes:
        stale: Exits that belonged to no living process.
        duplicates: Exit events of processes whose exit was accepted before.
    """

    def __init__(self, turn: Turn, memory: Memory, deadlines: Deadlines[Due], questions: Questions) -> None:
        self._turn = turn
        self._memory = memory
        self._deadlines = deadlines
        self._questions = questions
        self.stale = 0
        self.duplicates = 0

    # --- evidence -----------------------------------------------------------------------------------------------------

    def accept(self, process: ProcessRecord, status: ExitStatus) -> None:
        """Take `status` for the exit of `process`, if none was taken before."""
        if process.accepted is not None:
            return
        process.accepted = _unstarted(process) if _never_ran(process, status) else status
        process.ended = self._turn.moment
        process.doubts, process.former = (), None
        self._clear_fallback(process)
        self._questions.drop(process)
        incarnation = process.incarnation
        if not process.exec_id:
            incarnation.closed_at = self._turn.now
            self._memory.close(incarnation)
            self.expect_execs(incarnation)
        if incarnation.watched:
            self._look_for_oom(process)

    def doubt(
        self, process: ProcessRecord, status: ExitStatus, *, delay: float = 0.0, inherited: bool = False
    ) -> None:
        """Keep an exit that may be another process's, and ask the daemon about `process`, after `delay` seconds."""
        if process.accepted is not None:
            return
        if not status.unknown:  # it would add nothing to what the daemon answers
            process.doubts += (Doubt(status, self._turn.moment, self._turn.now, inherited),)
        self._questions.ask(process, delay=delay)

    def fall_back(self, process: ProcessRecord, status: ExitStatus, grace: float) -> None:
        """Take `status` for the exit of `process` unless something better comes within `grace` seconds."""
        if process.accepted is None and (process.fallback is None or process.fallback.unknown):
            process.fallback, process.fallback_since = status, self._turn.moment
            self._deadlines.set(("fallback", process), self._turn.now + grace)

    def gone(self, process: ProcessRecord, *, tell: bool = False) -> None:
        """Take it that the daemon knows `process` no more: its exit is what was heard of it, or unknown."""
        if process.accepted is not None:
            return
        self._questions.drop(process)
        credible = _most_credible(process)
        if credible is not None:
            self.accept(process, credible)
        elif process.fallback is None:
            process.tell = tell
            orphaned = process.exec_id and process.incarnation.init.accepted is not None
            source: ExitSource = "exec-orphaned" if orphaned else "missing"
            self.fall_back(process, _lost_exit(process, source), MISSING_GRACE)

    def lives(self, process: ProcessRecord, as_of: int) -> None:
        """Take it that `process` had not ended at `as_of`: exits that came before are not its own, unless it lags."""
        fallback = process.fallback
        if (
            fallback is not None
            and fallback.source in {"missing", "exec-orphaned"}
            and as_of >= process.fallback_since
        ):
            self._clear_fallback(process)
        for doubt in process.doubts:
            doubt.denied = doubt.denied or doubt.since <= as_of
        credible = [d for d in process.doubts if not (d.denied and self._turn.now - d.at > ANSWER_LAG)]
        self.stale += len(process.doubts) - len(credible)
        process.doubts = tuple(credible)
        if credible:
            self._questions.again(process)

    def pid_known(self, process: ProcessRecord, pid: int) -> None:
        """Take the pid of an exec; exits that waited for it can be judged now."""
        process.pid = pid
        doubts, process.doubts = process.doubts, ()
        for doubt in doubts:
            if doubt.status.pid != pid:
                self.stale += 1
            elif pid in process.former_pids:
                process.doubts += (doubt,)
            else:
                self.accept(process, doubt.status)
        if not process.doubts:
            self._questions.drop(process)

    def conclude(self, process: ProcessRecord) -> None:
        """Decide an accepted exit without waiting for the answer to its OOM question: there can be none any more."""
        if process.accepted is not None and process.exit is None and process.incarnation.watched:
            self._decide(process, checked=False)

    # --- time ---------------------------------------------------------------------------------------------------------

    def fallback_due(self, process: ProcessRecord) -> None:
        """Let the grace of a fallback end."""
        status = process.fallback
        if status is None:
            return
        if status.source == "unstarted":
            status = _lost_exit(process, "missing")  # the reply to its start may have come since
        if process.tell and process.started is not False:
            process.told |= {"/tasks/exit"}
            self._turn.effects.append(Synthesised(_exit_event(process, status)))
        self.accept(process, status)

    def expect_execs(self, incarnation: Incarnation) -> None:
        """Give the execs of a closed incarnation a grace for exits of their own, and ask for those that don't come."""
        for process in incarnation.execs.values():
            if process.accepted is None:
                self._questions.ask(process, delay=EXEC_QUESTION)
                self._deadlines.set(("execs", incarnation.init), self._turn.now + EXEC_GRACE)

    def execs_due(self, incarnation: Incarnation) -> None:
        """Let that grace end: with init dead no exec lives, and only the daemon may still know how it ended."""
        since = self._questions.connected_since
        late = since is not None and self._turn.now - max(since, incarnation.closed_at) >= EXEC_LIMIT
        for process in incarnation.execs.values():
            if process.accepted is not None:
                continue
            if process.fallback is not None or (process.question is not None and not late):
                self._questions.resume(process)
                self._deadlines.set(("execs", incarnation.init), self._turn.now + EXEC_GRACE)
            else:
                self.accept(process, _most_credible(process) or _lost_exit(process, "exec-orphaned"))
        incarnation.execs = {e: p for e, p in incarnation.execs.items() if p.exit is None}

    # --- OOM ----------------------------------------------------------------------------------------------------------

    def watch(self, incarnation: Incarnation) -> None:
        """Note that somebody holds a handle now: what was only accepted until now gets decided."""
        if not incarnation.watched:
            incarnation.watched = True
            if incarnation.init.accepted is not None:
                self._look_for_oom(incarnation.init)

    def oom_reported(self, incarnations: list[Incarnation]) -> None:
        """Take an OOM report about the latest of `incarnations`, or about one before it that died just now."""
        suspects = [i for i in incarnations if not i.oom_ruled_out]
        if not suspects:
            return
        first, *others = suspects
        died = next((i for i in others if i.open or self._turn.now - i.closed_at <= LATE_OOM), None)
        if died is None:
            self._oom_killed(first)
        elif first.deleted:
            # A report comes after its TaskCreate; a reply may have told of a later life than the stream has reached.
            self._oom_killed(first if first.announced else died)
        elif first.watched or died.watched:
            # The report names only the container. The cgroup of the latest knows whether it is meant.
            first.oom_contested = died
            self._ask_metrics(first)
        else:
            self._oom_killed(first if first.init.started else died)

    def oom_checked(self, incarnation: Incarnation, killed: bool | None, as_of: int) -> None:
        """Take what the cgroup counted, asked for at `as_of`; None when nobody knows."""
        init = incarnation.init
        contested, incarnation.oom_contested = incarnation.oom_contested, None
        if killed:
            self._oom_killed(incarnation)
        elif contested is not None:
            self._oom_killed(contested)
        if killed is False and init.accepted is not None and as_of >= init.ended:
            incarnation.oom_ruled_out = True
        for process in self._undecided(incarnation):
            if as_of >= process.ended:
                self._decide(process, checked=killed is not None)
        if incarnation.oom_ruled_out and init.exit is not None:
            init.exit = replace(init.exit, oom_known=True)

    def oom_due(self, process: ProcessRecord) -> None:
        """Let the limit of an OOM question end."""
        self.conclude(process)

    def _look_for_oom(self, process: ProcessRecord) -> None:
        """Decide an accepted exit, after a look at the cgroup if it may have been an OOM kill nobody reported."""
        status, incarnation = process.accepted, process.incarnation
        assert status is not None
        suspicious = status.code == SIGKILLED and not incarnation.oom and status.source != "unstarted"
        cgroup_remains = not incarnation.deleted and (incarnation.open or not process.exec_id)
        if suspicious and cgroup_remains and status.source in {"event", "wait", "get", "list"}:
            self._deadlines.set(("oom", process), self._turn.now + OOM_LIMIT)
            self._ask_metrics(incarnation)
        else:
            self._decide(process, checked=not suspicious)

    def _ask_metrics(self, incarnation: Incarnation) -> None:
        self._turn.effects.append(CheckOOM(incarnation))

    def _oom_killed(self, incarnation: Incarnation) -> None:
        incarnation.oom = True
        if not incarnation.watched:
            return
        self._turn.effects.append(OOMKilled(incarnation))
        for process in self._undecided(incarnation):
            self._decide(process, checked=True)
        init = incarnation.init
        if init.exit is not None and not init.exit.oom_killed:
            init.exit = replace(init.exit, oom_killed=True, oom_known=True)
            self._turn.effects.append(Amended(init))

    def _undecided(self, incarnation: Incarnation) -> list[ProcessRecord]:
        """Return the processes whose accepted exit waits for an answer about OOM, execs first."""
        processes = (*incarnation.execs.values(), incarnation.init)
        return [p for p in processes if p.accepted is not None and p.exit is None and incarnation.watched]

    def _decide(self, process: ProcessRecord, *, checked: bool) -> None:
        status, incarnation = process.accepted, process.incarnation
        assert status is not None
        self._deadlines.clear(("oom", process))
        if not process.exec_id:
            for other in self._undecided(incarnation):
                if other.exec_id:  # told before the end of the container they were in
                    self._decide(other, checked=False)
        oom = incarnation.oom and (not process.exec_id or status.code == SIGKILLED)
        if oom:
            status = replace(status, oom_killed=True, oom_known=True)
        elif not checked:
            status = replace(status, oom_known=False)
        process.exit = status
        self._turn.effects.append(Decided(process))

    def _clear_fallback(self, process: ProcessRecord) -> None:
        process.fallback = None
        self._deadlines.clear(("fallback", process))


def _lost_exit(process: ProcessRecord, source: ExitSource) -> ExitStatus:
    """Return the exit of a process that is gone, and of which nobody can tell more."""
    if process.exec_id and process.started is False:
        return _unstarted(process)
    return ExitStatus(
        code=UNKNOWN_EXIT_STATUS,
        exited_at_ns=None,
        pid=process.pid or 0,
        oom_known=False,
        unknown=True,
        source=source,
    )


def _unstarted(process: ProcessRecord) -> ExitStatus:
    """Return the exit of a process that was removed before its start.

    The daemon's sources disagree: its TaskExit says 137 of init, its TaskDelete and its reply 0, which would read as
    success. Killed is what it was.
    """
    return ExitStatus(code=SIGKILLED, exited_at_ns=None, pid=process.pid or 0, source="unstarted")


def _never_ran(process: ProcessRecord, status: ExitStatus) -> bool:
    """Return whether the daemon says of a process it deleted that it has no time of exit."""
    deleted = status.source in {"delete", "task-delete"}
    return deleted and status.exited_at_ns is None and not process.started


def _most_credible(process: ProcessRecord) -> ExitStatus | None:
    """Return the doubtful exit to believe now that the process is gone: the first that the daemon did not deny."""
    doubts = list(process.doubts)
    if process.exec_id and not process.started:
        doubts = [d for d in doubts if d.status.pid not in process.former_pids]
    # The last resort, when all are denied, is the latest of its own.
    undenied = [d for d in doubts if not d.denied] or [d for d in doubts if not d.inherited][-1:]
    if not undenied:
        return None

    def incredible(doubt: Doubt) -> tuple[bool, ...]:
        unstarted = bool(process.started) and doubt.status.exited_at_ns is None
        return doubt.inherited, unstarted, doubt.status.source == "task-delete"

    return min(undenied, key=incredible).status


def _exit_event(process: ProcessRecord, status: ExitStatus) -> TaskExit:
    return TaskExit(
        topic="/tasks/exit",
        namespace=process.incarnation.namespace,
        origin="resync",
        container_id=process.incarnation.container_id,
        id=process.name,
        pid=status.pid,
        exit_status=status.code,
        exited_at_ns=status.exited_at_ns,
    )
