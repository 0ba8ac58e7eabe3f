"""A daemon, its tasks and the way to them, as they really behave, driven by a tape of bytes.

`TrueDaemon` knows what happens to tasks and publishes what containerd publishes. `World` puts a registry on the other end
of a stream that breaks, delays, repeats and loses what reality does, and of calls whose replies overtake events and are
overtaken by them. Every byte of the tape is a decision, so a failing schedule shrinks to a short one. `World.check` holds
what the registry made of it against the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from containerd_aio.events.effects import Amended, CheckOOM, Confirm, Decided, Effect, Started, Synthesised
from containerd_aio.events.exits import ExitStatus
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
from containerd_aio.events.records import Incarnation, Phase, ProcessRecord
from containerd_aio.events.registry import Registry
from containerd_aio.events.resync import TaskState
from containerd_aio.events.verdicts import LATE_OOM

NAMESPACE = "default"
# Events are not under way for longer than this; the graces of the registry are.
MAX_LAG = 0.15
CODES = (0, 1, 5, 137, 143, 255)
TOPICS: dict[type[Event], str] = {
    TaskCreate: "/tasks/create",
    TaskStart: "/tasks/start",
    TaskExit: "/tasks/exit",
    TaskDelete: "/tasks/delete",
    TaskOOM: "/tasks/oom",
    TaskPaused: "/tasks/paused",
    TaskResumed: "/tasks/resumed",
    TaskExecAdded: "/tasks/exec-added",
    TaskExecStarted: "/tasks/exec-started",
}


def event(kind: type[Event], container_id: str, **fields: Any) -> Event:
    """Make an event as it comes from the stream."""
    made: Event = kind(topic=TOPICS[kind], namespace=NAMESPACE, container_id=container_id, **fields)  # type: ignore[call-arg]
    return made


@dataclass(eq=False)
class TrueProcess:
    """A process as it really is."""

    container_id: str
    exec_id: str
    pid: int
    status: Literal["created", "running", "stopped"] = "created"
    code: int | None = None
    exited_at_ns: int | None = None
    # Codes that evidence for it has said, in the order the registry got to see it.
    said: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.exec_id or self.container_id

    def __repr__(self) -> str:
        return f"<{self.container_id}/{self.exec_id or 'init'} pid={self.pid} {self.status} {self.code}>"


@dataclass(eq=False)
class TrueTask:
    """A task as it really is."""

    init: TrueProcess
    execs: dict[str, TrueProcess] = field(default_factory=dict)
    paused: bool = False
    ooms: int = 0

    @property
    def container_id(self) -> str:
        return self.init.container_id

    def processes(self) -> list[TrueProcess]:
        return [*self.execs.values(), self.init]


@dataclass(frozen=True)
class Said:
    """What the daemon says of a process, and which one it means."""

    state: TaskState
    process: TrueProcess
    task: TrueTask


class Refused(Exception):
    """The daemon said no."""


class Unclear(Exception):
    """The connection failed: nobody knows what the daemon did."""


class TrueDaemon:
    """Tasks by name, and the events that their lives make.

    Args:
        publish: Takes every event, with the process it is evidence of, if any.
        pick: Returns a number below its argument.
        reused_pid: Returns a pid for a new task of that name that an earlier one had; None for a new one.
    """

    def __init__(
        self,
        publish: Callable[[Event, TrueProcess | None], None],
        pick: Callable[[int], int],
        reused_pid: Callable[[str], int | None],
    ) -> None:
        self.tasks: dict[str, TrueTask] = {}
        self.publish = publish
        self.pick = pick
        self.reused_pid = reused_pid
        self.last_pid = 99
        self.clock_ns = 1_700_000_000_000_000_000

    def _task(self, container_id: str) -> TrueTask:
        if container_id not in self.tasks:
            raise Refused("not found")
        return self.tasks[container_id]

    def _pid(self) -> int:
        self.last_pid += 1
        return self.last_pid

    def create(self, container_id: str) -> TrueTask:
        if container_id in self.tasks:
            raise Refused("already exists")
        pid = self.reused_pid(container_id) or self._pid()
        task = self.tasks[container_id] = TrueTask(TrueProcess(container_id, "", pid))
        self.publish(event(TaskCreate, container_id, pid=task.init.pid), None)
        return task

    def start(self, container_id: str, exec_id: str = "") -> TrueProcess:
        task = self._task(container_id)
        process = task.execs.get(exec_id) if exec_id else task.init
        if process is None or process.status != "created" or task.init.status == "stopped":
            raise Refused("cannot start")
        if exec_id:
            if task.init.status != "running":
                raise Refused("container is not running")
            process.pid = self._pid()
            self.publish(event(TaskExecStarted, container_id, exec_id=exec_id, pid=process.pid), None)
        else:
            self.publish(event(TaskStart, container_id, pid=process.pid), None)
        process.status = "running"
        return process

    def add_exec(self, container_id: str, exec_id: str) -> TrueProcess:
        task = self._task(container_id)
        if exec_id in task.execs or task.init.status != "running":
            raise Refused("exec refused")
        process = task.execs[exec_id] = TrueProcess(container_id, exec_id, 0)
        self.publish(event(TaskExecAdded, container_id, exec_id=exec_id), None)
        return process

    def exit(self, task: TrueTask, process: TrueProcess, code: int) -> None:
        """Let a process end; with init end the execs, first."""
        if process.status == "stopped":
            return
        if process is task.init:
            for other in task.execs.values():
                if other.status == "running":
                    self.exit(task, other, 137)
        self._die(process, 137 if process.status == "created" else code)
        self.publish(self._exit_event(process, process.code), process)

    def _die(self, process: TrueProcess, code: int) -> None:
        self.clock_ns += 1_000_000
        process.status, process.code, process.exited_at_ns = "stopped", code, self.clock_ns

    def _exit_event(self, process: TrueProcess, code: int | None, pid: int | None = None) -> Event:
        return event(
            TaskExit,
            process.container_id,
            id=process.name,
            pid=process.pid if pid is None else pid,
            exit_status=code,
            exited_at_ns=process.exited_at_ns,
        )

    def _delete_event(self, task: TrueTask, code: int, pid: int | None = None) -> None:
        init = task.init
        fields = {
            "pid": init.pid if pid is None else pid,
            "exit_status": code,
            "exited_at_ns": init.exited_at_ns,
        }
        self.publish(event(TaskDelete, init.container_id, **fields), init)

    def delete(self, container_id: str, exec_id: str = "") -> tuple[TrueProcess, ExitStatus]:
        """Delete what does not run; a created task is killed by it, and 1.6 orders its last events otherwise."""
        task = self._task(container_id)
        process = task.execs.get(exec_id) if exec_id else task.init
        if process is None:
            raise Refused("not found")
        if process.status == "running":
            raise Refused("running")
        unstarted = process.status == "created"
        if exec_id:
            del task.execs[exec_id]
            process.status = "stopped"
        else:
            del self.tasks[container_id]
            if unstarted:
                process.status, process.code = "stopped", 137
                if self.pick(2):
                    self.publish(self._exit_event(process, 137), process)
                    self._delete_event(task, 0)
                else:
                    self._delete_event(task, 0)
                    self.publish(self._exit_event(process, 137), process)
            else:
                self._delete_event(task, process.code or 0)
        code = 0 if unstarted else process.code or 0
        status = ExitStatus(code, process.exited_at_ns, process.pid, source="delete")
        return process, status

    def kill_shim(self, task: TrueTask) -> None:
        """What runs is killed; containerd tells so, or repeats the exit of what had ended with another code."""
        for process in task.processes():
            if process.status != "stopped":
                self._die(process, 137)
        self.tasks.pop(task.container_id, None)
        if self.pick(8) == 7:  # even the clean-up failed
            self.publish(self._exit_event(task.init, 255, pid=0), task.init)
            self._delete_event(task, 255, pid=0)
        else:
            self.publish(self._exit_event(task.init, 137), task.init)
            self._delete_event(task, 137)

    def oom(self, task: TrueTask) -> None:
        """The kernel kills for lack of memory, init or another; the event may come before, after, twice or never."""
        if task.init.status != "running":
            return
        task.ooms += 1
        report, kills_init = self.pick(8), self.pick(4) != 3
        if report <= 4:
            self.publish(event(TaskOOM, task.container_id), task.init)
        if report == 4:
            self.publish(event(TaskOOM, task.container_id), task.init)
        if kills_init:
            self.exit(task, task.init, 137)
        if report == 5:
            self.publish(event(TaskOOM, task.container_id), task.init)

    def pause(self, task: TrueTask) -> None:
        if task.init.status == "running":
            task.paused = not task.paused
            self.publish(event(TaskPaused if task.paused else TaskResumed, task.container_id), None)

    def restart(self) -> None:
        """Come back after a crash. 1.6 keeps what ended meanwhile, later releases erase it and say nothing."""
        for task in list(self.tasks.values()):
            if self.pick(3) == 2:
                for process in task.processes():
                    if process.status == "running":
                        self._die(process, CODES[self.pick(len(CODES))])
                if task.init.status == "stopped" and self.pick(2):
                    del self.tasks[task.container_id]

    def get(self, container_id: str, exec_id: str = "") -> Said:
        task = self._task(container_id)
        process = task.execs.get(exec_id) if exec_id else task.init
        if process is None:
            raise Refused("not found")
        return self.say(process, task, "get")

    def say(self, process: TrueProcess, task: TrueTask, source: Literal["get", "list"]) -> Said:
        exit_status = None
        if process.status == "stopped":
            exit_status = ExitStatus(process.code or 0, process.exited_at_ns, process.pid, source=source)
        phase = {"created": Phase.CREATED, "running": Phase.PAUSED if task.paused else Phase.RUNNING}
        state = TaskState(
            namespace=NAMESPACE,
            container_id=process.container_id,
            exec_id=process.exec_id,
            pid=process.pid,
            phase=phase.get(process.status),
            exit=exit_status,
            seen_at_ns=0,
        )
        return Said(state, process, task)


@dataclass(eq=False)
class Call:
    """A call of ours: sent, done by the daemon some time later, and answered some time after that."""

    do: Callable[[], Any]
    reply: Callable[[Any], None]  # takes what `do` returned, or the exception
    outcome: Any = None
    done: bool = False


@dataclass(eq=False)
class Handle:
    """What a user holds, and what it really is."""

    record: ProcessRecord
    truth: TrueProcess
    task: TrueTask
    said_then: list[int] = field(default_factory=list)

    @property
    def hopeless(self) -> bool:
        """Whether nothing was said of it, and an earlier life under its pid may be all there is to go by."""
        return not self.said_then and self.truth.pid in self.record.former_pids

    @property
    def over(self) -> bool:
        """Whether it will never run again."""
        gone = self.truth.exec_id and self.truth not in self.task.execs.values()
        return self.truth.status == "stopped" or self.task.init.status == "stopped" or bool(gone)

    def check(self, *, guessed: bool) -> None:
        """Compare the decided exit with the truth."""
        status, truth = self.record.exit, self.truth
        assert status is not None
        if self.hopeless:
            pass
        elif status.unknown:
            assert status.code == 255
            assert not self.said_then, f"{self.record}: unknown, though {self.said_then} was said of {truth}"
        elif (
            truth.exited_at_ns is None or truth.pid == 0
        ):  # deleted, or its container died, before it was started
            assert status.code == 137, f"{self.record} never ran, but {status}"
        elif truth.code in self.said_then[:1]:
            assert status.code == truth.code, f"{self.record} has another code than {truth}"
        else:
            assert status.code in self.said_then, f"{self.record}: nobody said {status.code} of {truth}"
        if self.record.exec_id or guessed:
            return
        if self.task.ooms == 0:
            assert not status.oom_killed, f"{self.record} was not OOM killed"
        elif status.code == 137 and status.oom_known:
            assert status.oom_killed, f"{self.record} was OOM killed"


class World:
    """A registry and the reality it lives in.

    Args:
        tape: The decisions; when it is used up, everything goes its plain way.
        names: Container ids.
        reuse: Whether pids are used again, while late copies of exits with them are still under way.
        drops: Whether events may get lost though the stream stands.
        verbose: Whether to keep a log of it.
    """

    def __init__(
        self,
        tape: bytes,
        *,
        names: int = 2,
        reuse: bool = False,
        drops: bool = False,
        verbose: bool = False,
    ) -> None:
        self.tape = tape
        self.position = 0
        self.now = 1000.0
        self.drops = drops
        self.names = [f"c{n}" for n in range(names)]
        self.registry = Registry()
        self.reuse = reuse
        self.past: dict[str, tuple[Event, TrueProcess]] = {}
        self.daemon = TrueDaemon(self._publish, self.pick, self._reused_pid)
        self.wire: list[tuple[float, Event, TrueProcess | None]] = []
        self.buffer: list[tuple[Event, TrueProcess | None]] | None = None
        self.connection: Literal["down", "syncing", "live"] = "live"
        self.session = 0
        self.calls: list[Call] = []
        self.serving: Call | None = None
        self.handles: list[Handle] = []
        self.guessed = False  # an OOM question went unanswered, so that a flag may be on the wrong life
        self.adding: set[tuple[str, str]] = set()
        self.starting: set[tuple[str, str]] = set()
        self.begun: set[ProcessRecord] = set()
        self.ended: set[ProcessRecord] = set()
        self.verbose = verbose
        self.log: list[str] = []

    # --- the tape -----------------------------------------------------------------------------------------------------

    def pick(self, n: int) -> int:
        if self.position >= len(self.tape):
            return 0
        self.position += 1
        return self.tape[self.position - 1] % n

    def run(self) -> None:
        """Play the tape, let everything come to rest, and compare."""
        while self.position < len(self.tape):
            self.step()
        self.rest()
        self.check()

    def step(self) -> None:
        choice = self.pick(64)
        self._pass_time((0.0, 0.001, 0.01, 0.05)[choice >> 4 & 3] if choice % 3 == 0 else 0.001)
        if self.reuse and choice >= 62:
            self._calm()
        _ACTIONS[choice % len(_ACTIONS)](self)

    def note(self, *what: object) -> None:
        if self.verbose:
            self.log.append(f"{self.now:.3f} " + " ".join(map(str, what)))

    # --- the stream ---------------------------------------------------------------------------------------------------

    def _reused_pid(self, container_id: str) -> int | None:
        """Let the pids have gone round: of the former life nothing is under way but a late copy of its exit."""
        past = self.past.get(container_id)
        quiet = self.connection == "live" and not self.wire and set(self.calls) <= {self.serving}
        quiet = quiet and self.registry.next_deadline() is None
        if not self.reuse or past is None or not quiet or self.pick(2):
            return None
        self.now += 10
        self.tick()
        late, process = past
        self.wire += [(self.now, late, process)] * self.pick(3)
        return process.pid

    def _publish(self, published: Event, about: TrueProcess | None) -> None:
        if self.connection == "down":
            self.note("LOST", published)
            return
        if self.drops and self.pick(16) == 15:
            self.note("DROPPED", published)
            return
        copies = 2 if self.pick(16) == 15 else 1
        for _ in range(copies):
            # What a shim could not send at first comes later, out of order.
            at = max(0, len(self.wire) - self.pick(4)) if self.pick(8) == 7 else len(self.wire)
            self.wire.insert(at, (self.now, published, about))
        self.note("published", published, f"x{copies}")

    def deliver(self) -> None:
        if self.wire and self.connection != "down":
            _, published, about = self.wire.pop(0)
            if self.buffer is not None:
                self.buffer.append((published, about))
            else:
                self._take(published, about)

    def _take(self, published: Event, about: TrueProcess | None) -> None:
        self.note("EVENT", published)
        if about is not None:
            self._said(about, published)
        if isinstance(published, TaskOOM) and about is not None:
            # It names only the container: of a life that was not heard of yet it can't be told.
            lives = self.registry.incarnations(NAMESPACE, published.container_id)
            heard_of = about.pid in {i.pid for i in lives}
            recent = [i for i in lives if i.open or self.now - i.closed_at <= LATE_OOM]
            clear = (
                len(recent) <= 2 and any(i.watched for i in recent) and not any(i.deleted for i in recent[:1])
            )
            self.guessed = self.guessed or not (heard_of and clear)
        effects, _ = self.registry.event(published, self.now)
        self.carry_out(effects)

    def _said(self, about: TrueProcess, published: Event) -> None:
        if isinstance(published, TaskExit | TaskDelete) and not (
            published.pid == 0 and published.exit_status == 255
        ):
            about.said.append(published.exit_status)
        if isinstance(published, TaskExit) and published.pid and not about.exec_id:
            _, before = self.past.get(about.container_id, (None, None))
            if before is not about:
                self.past[about.container_id] = published, about

    def disconnect(self) -> None:
        if self.connection != "down" and self.pick(3) == 2:
            self._lose()
            if self.pick(2):
                self.note("daemon restarts")
                self.daemon.restart()

    def _lose(self) -> None:
        self.note("DISCONNECTED")
        self.connection = "down"
        self.wire.clear()
        buffered, self.buffer = self.buffer or [], None
        self.registry.disconnected()
        for published, about in buffered:
            self._take(published, about)

    def reconnect(self) -> None:
        if self.connection != "down":
            return
        self.note("SUBSCRIBED")
        self.connection, self.buffer = "syncing", []
        self.session += 1
        session, as_of = self.session, self.registry.moment

        def listed(states: Any) -> None:
            if session == self.session and self.connection == "syncing":
                if isinstance(states, Exception):
                    self._lose()
                    return
                self.note("LISTED", states)
                for said in states:
                    self.hear(said)
                listing = [said.state for said in states]
                self.carry_out(self.registry.listed(listing, as_of=as_of, now=self.now, tell=True))
                buffered, self.buffer = self.buffer or [], None
                for published, about in buffered:
                    self._take(published, about)
                self.connection = "live"

        self.calls.append(Call(self._list, listed))

    def _list(self) -> list[Said]:
        states = []
        for task in self.daemon.tasks.values():
            shim = self.pick(16)
            if shim == 14:  # the shim does not answer
                states.append(
                    Said(TaskState(NAMESPACE, task.container_id, 0, None, None, 0), task.init, task)
                )
            elif shim != 15:  # the same, and the listing leaves the task out
                states.append(self.daemon.say(task.init, task, "list"))
        return states

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, do: Callable[[], Any], reply: Callable[[Any], None]) -> None:
        self.calls.append(Call(do, reply))

    def serve(self) -> None:
        """Let the daemon do one of the calls; sometimes the connection fails before or after."""
        waiting = [c for c in self.calls if not c.done]
        if waiting:
            call = waiting[self.pick(len(waiting))]
            call.done = True
            failure = self.pick(24)
            self.serving = call
            try:
                call.outcome = Unclear() if failure == 23 else call.do()
            except Refused as exc:
                call.outcome = exc
            self.serving = None
            if failure == 22:
                call.outcome = Unclear()

    def reply(self) -> None:
        done = [c for c in self.calls if c.done]
        if done:
            call = done[self.pick(len(done))]
            self.calls.remove(call)
            call.reply(call.outcome)

    def hear(self, said: Any) -> None:
        """Note that the registry gets to see what the daemon said."""
        if isinstance(said, Said) and said.state.exit is not None:
            said.process.said.append(said.state.exit.code)

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Decided(record):
                    self._decided(record)
                case Confirm(record):
                    self._confirm(record)
                case CheckOOM(incarnation):
                    self._check_oom(incarnation)
                case Synthesised(told):
                    self._told(told)
                case Started(record):
                    self.note(effect)
                    assert record not in self.ended, f"{record} started after its end was told"
                    assert record not in self.begun, f"{record} started twice"
                    self.begun.add(record)
                case Amended(record):
                    self.note(effect)
                    assert record in self.ended, f"{record} amended before its end was told"
                case _:
                    self.note(effect)

    def _confirm(self, record: ProcessRecord) -> None:
        as_of = self.registry.moment
        container_id, exec_id = record.incarnation.container_id, record.exec_id

        def reply(said: Any) -> None:
            self.note("ANSWER", record, said)
            self.hear(said)
            answer = (
                said.state
                if isinstance(said, Said)
                else "missing"
                if isinstance(said, Refused)
                else "unclear"
            )
            self.carry_out(self.registry.answered(record, answer, as_of=as_of, now=self.now))

        self.call(lambda: self.daemon.get(container_id, exec_id), reply)

    def _check_oom(self, incarnation: Incarnation) -> None:
        as_of = self.registry.moment
        self.note("CHECK OOM", incarnation)

        def ask() -> bool | None:
            task = self.daemon.tasks.get(incarnation.container_id)
            if task is None:
                self.guessed = True
                return None
            self.guessed = self.guessed or task.init.pid != incarnation.pid
            return task.ooms > 0

        def reply(killed: Any) -> None:
            answer = killed if isinstance(killed, bool) else None
            self.guessed = self.guessed or answer is None
            self.note("METRICS", incarnation, answer)
            effects = self.registry.oom_checked(incarnation, answer, as_of=as_of, now=self.now)
            self.carry_out(effects)

        self.call(ask, reply)

    # --- what the user does -------------------------------------------------------------------------------------------

    def name(self) -> str:
        return self.names[self.pick(len(self.names))]

    def create(self) -> None:
        if self.connection != "live":
            return
        container_id, as_of = self.name(), self.registry.moment

        def reply(task: Any) -> None:
            self.note("CREATED", container_id, task)
            if isinstance(task, TrueTask):
                incarnation, effects = self.registry.created(
                    NAMESPACE, container_id, task.init.pid, as_of=as_of, now=self.now
                )
                self.hold(incarnation.init, task.init, task)
                self.carry_out(effects)

        self.call(lambda: self.daemon.create(container_id), reply)

    def adopt(self) -> None:
        if self.connection != "live":
            return
        container_id, as_of = self.name(), self.registry.moment

        def reply(said: Any) -> None:
            self.note("ADOPTED", container_id, said)
            if isinstance(said, Said):
                self.hear(said)
                incarnation, effects = self.registry.adopt(said.state, as_of=as_of, now=self.now)
                self.hold(incarnation.init, said.process, said.task)
                self.carry_out(effects)

        self.call(lambda: self.daemon.get(container_id), reply)

    def hold(self, record: ProcessRecord, truth: TrueProcess, task: TrueTask) -> None:
        for handle in self.handles:
            if handle.record is record:
                assert handle.truth is truth, f"{record} is {handle.truth} and {truth}"
                return
        self.handles.append(Handle(record, truth, task))

    def a_handle(self, *, init: bool | None = None) -> Handle | None:
        handles = [h for h in self.handles if init is None or (not h.record.exec_id) == init]
        if not handles:
            return None
        return handles[-1 - (self.pick(len(handles)) if self.pick(3) == 2 else 0)]

    def start(self) -> None:
        handle = self.a_handle()
        if handle is None or handle.record.started:
            return
        record = handle.record
        container_id = record.incarnation.container_id
        heir = record.incarnation.execs.get(record.exec_id, record)
        if heir is not record or (container_id, record.exec_id) in self.adding:
            return  # a handle that its id was taken from: a start would be the heir's

        key = (container_id, record.exec_id)
        self.starting.add(key)

        def reply(process: Any) -> None:
            self.note("STARTED", record, repr(process))
            self.starting.discard(key)
            if isinstance(process, TrueProcess):
                self.carry_out(self.registry.started(record, process.pid, now=self.now))
            else:
                self.carry_out(self.registry.start_failed(record, now=self.now))

        self.call(lambda: self.daemon.start(container_id, record.exec_id), reply)

    def add_exec(self) -> None:
        handle = self.a_handle(init=True)
        if handle is None or self.connection != "live":
            return
        incarnation, task = handle.record.incarnation, handle.task
        container_id = incarnation.container_id
        exec_id = ("e1", "e2", container_id)[self.pick(3)]
        key = (container_id, exec_id)
        if key in self.adding | self.starting:
            return  # nobody can tell which of two replies came first
        self.adding.add(key)

        def reply(process: Any) -> None:
            self.note("EXEC ADDED", exec_id, repr(process))
            self.adding.discard(key)
            # Under the name of the container another life may have been reached; then it is not this task's exec.
            if isinstance(process, TrueProcess) and process in task.execs.values():
                record, effects = self.registry.exec_added(incarnation, exec_id, now=self.now)
                self.hold(record, process, task)
                self.carry_out(effects)

        self.call(lambda: self.daemon.add_exec(container_id, exec_id), reply)

    def delete(self) -> None:
        handle = self.a_handle()
        if handle is None:
            return
        record, as_of = handle.record, self.registry.moment
        container_id = record.incarnation.container_id

        def reply(deleted: Any) -> None:
            self.note("DELETED", record, deleted)
            if isinstance(deleted, tuple):
                process, status = deleted
                if process is handle.truth or not process.exec_id:  # else none can tell which exec it was
                    process.said.append(status.code)
                self.carry_out(self.registry.exited(record, status, as_of=as_of, now=self.now))
            elif isinstance(deleted, Refused) and str(deleted) == "not found":
                self.carry_out(self.registry.absent(record, as_of=as_of, now=self.now))

        self.call(lambda: self.daemon.delete(container_id, record.exec_id), reply)

    def inquire(self) -> None:
        handle = self.a_handle()
        if handle is not None:
            self.carry_out(self.registry.inquire(handle.record, now=self.now))

    # --- what happens in the world ------------------------------------------------------------------------------------

    def a_task(self) -> TrueTask | None:
        tasks = list(self.daemon.tasks.values())
        return tasks[self.pick(len(tasks))] if tasks else None

    def exit(self) -> None:
        task = self.a_task()
        if task is not None:
            running = [p for p in task.processes() if p.status == "running"] or [task.init]
            self.daemon.exit(task, running[-1 - self.pick(len(running))], CODES[self.pick(len(CODES))])

    def misfortune(self) -> None:
        task = self.a_task()
        if task is None:
            return
        which = self.pick(6)
        if which == 0:
            self.daemon.kill_shim(task)
        elif which == 1:
            self.daemon.pause(task)
        else:
            self.daemon.oom(task)

    def others(self) -> None:
        """Do what another client of the daemon may do."""
        container_id, which = self.name(), self.pick(4)
        try:
            if which == 0:
                self.daemon.create(container_id)
            elif which == 1:
                self.daemon.start(container_id)
            elif which == 2:
                self.daemon.delete(container_id)
            else:
                self.daemon.add_exec(container_id, "foreign")
                self.daemon.start(container_id, "foreign")
        except Refused:
            pass

    # --- time ---------------------------------------------------------------------------------------------------------

    def _pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self.wire and min(at for at, *_ in self.wire) < self.now - MAX_LAG:
            self.deliver()
        self.tick()

    def tick(self) -> None:
        deadline = self.registry.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.note("TICK")
            self.carry_out(self.registry.tick(self.now))

    def rest(self) -> None:
        """Let everything under way arrive, then have everything audited."""
        self._come_to_rest()
        self.note("AUDIT")
        self._lose()
        self._come_to_rest()

    def _calm(self) -> None:
        """Let what is under way arrive."""
        while self.wire and self.connection == "live":
            self.deliver()
        for _ in range(len(self.calls)):
            self.serve()
            self.reply()

    def _come_to_rest(self) -> None:
        for _ in range(10_000):
            self.reconnect()
            while self.wire:
                self.deliver()
            for _ in range(len(self.calls)):
                self.serve()
                self.reply()
            deadline = self.registry.next_deadline()
            if self.calls or self.wire:
                continue
            if deadline is None:
                return
            self.now = max(self.now, deadline)
            self.tick()
        raise AssertionError("it never comes to rest")

    # --- the truth ----------------------------------------------------------------------------------------------------

    def _told(self, told: Event) -> None:
        self.note("TOLD", told)
        if isinstance(told, TaskExit):
            task = self.daemon.tasks.get(told.container_id)
            for process in task.processes() if task is not None else ():
                same = (process.name, process.pid) == (told.id, told.pid)
                assert not same or process.status == "stopped", f"told the exit of {process}, which lives"

    def _decided(self, record: ProcessRecord) -> None:
        self.note("DECIDED", record, record.exit and record.exit.source)
        assert record.exit is not None
        assert record not in self.ended, f"{record} decided twice"
        self.ended.add(record)
        for handle in self.handles:
            if handle.record is record:
                handle.said_then = list(handle.truth.said)
                assert handle.over, f"{record} decided, but {handle.truth} lives"

    def seen(self) -> dict[str, int]:
        """Count what happened."""
        exits = [h.record.exit for h in self.handles if h.record.exit is not None]
        return {
            "handles": len(self.handles),
            "execs": sum(bool(h.record.exec_id) for h in self.handles),
            "exits decided": len(exits),
            "exits unknown": sum(e.unknown for e in exits),
            "OOM kills": sum(e.oom_killed for e in exits),
            "reconnects": self.session,
            "stale exits": self.registry.stale_exits,
            "duplicate exits": self.registry.duplicate_exits,
        }

    def check(self) -> None:
        """Compare what the registry believes with what is."""
        for handle in self.handles:
            if handle.over:
                assert handle.record.exit is not None, f"{handle.record} was lost: {handle.truth}"
            if handle.record.exit is not None:
                handle.check(guessed=self.guessed)
        alive = {
            (t.container_id, t.init.pid) for t in self.daemon.tasks.values() if t.init.status != "stopped"
        }
        believed = [(i.container_id, i.pid) for i in self.registry.open_incarnations()]
        assert len(set(believed)) == len(believed)
        assert set(believed) <= alive
        # A task of others under a pid that was used before is found when somebody takes a handle on it.
        assert self.reuse or set(believed) == alive


_ACTIONS: tuple[Callable[[World], None], ...] = (
    *[World.deliver] * 10,
    *[World.serve] * 10,
    *[World.reply] * 10,
    *[World.create] * 3,
    *[World.start] * 7,
    *[World.add_exec] * 6,
    *[World.exit] * 4,
    *[World.delete] * 3,
    *[World.misfortune] * 3,
    *[World.others] * 2,
    World.adopt,
    World.inquire,
    World.disconnect,
    *[World.reconnect] * 3,
)
