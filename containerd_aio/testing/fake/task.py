"""A task of the fake, with the shim that runs it: its processes, its states and the events they lead to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpclib.const import Status as Code

from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.testing.fake.call import refuse, refuse_plainly
from containerd_aio.testing.fake.clock import to_timestamp
from containerd_aio.testing.fake.fates import Fate
from containerd_aio.testing.fake.rootfs import missing_program

if TYPE_CHECKING:
    from betterproto2 import Message
    from grpclib.exceptions import GRPCError

    from containerd_aio.api.containerd.types import Mount
    from containerd_aio.testing.fake.process import FakeProcess
    from containerd_aio.testing.fake.releases import Release

Publish = Callable[[str, "Message"], None]

_STATE_NAMES = {
    Status.CREATED: "created",
    Status.RUNNING: "running",
    Status.PAUSED: "paused",
    Status.STOPPED: "stopped",
}
_MAX_SIGNAL = 64


@dataclass(frozen=True, slots=True)
class Shim:
    """What a task needs of the world around it.

    Attributes:
        release: Which containerd it is.
        now_ns: Tells the time.
        publish: Publishes an event in the task's namespace; may be late when the daemon is away.
        start: Gives a process a pid and runs it.
    """

    release: Release
    now_ns: Callable[[], int]
    publish: Publish
    start: Callable[[FakeProcess], None]


class FakeTask:
    """A task, as the test sees it.

    Attributes:
        namespace: Namespace of its container.
        id: Id of its container.
        bundle: Path of its bundle, which does not exist.
        rootfs: The mounts of its root filesystem.
        init: Its init process.
        execs: Its other processes, by exec id, until they are deleted.
        paused: Whether it is paused.
        oom_kills: What the cgroup's counter says.
        shim_alive: Whether the shim answers.
    """

    def __init__(self, init: FakeProcess, bundle: str, rootfs: Sequence[Mount], shim: Shim) -> None:
        self.namespace = init.namespace
        self.id = init.container_id
        self.bundle = bundle
        self.rootfs = rootfs
        self.init = init
        self.execs: dict[str, FakeProcess] = {}
        self.paused = False
        self.oom_kills = 0
        self.shim_alive = True
        self._shim = shim
        self._due: list[tuple[FakeProcess, int, str | None]] = []

    def __repr__(self) -> str:
        return f"<FakeTask {self.namespace}/{self.id} pid={self.init.pid} {self.status.name}>"

    @property
    def pid(self) -> int:
        """Pid of its init process."""
        return self.init.pid

    @property
    def status(self) -> Status:
        """The state of its init process, or that it is paused."""
        return self.status_of(self.init)

    def status_of(self, process: FakeProcess) -> Status:
        """Return the state of a process as Get tells it."""
        if self.paused and process is self.init and process.running:
            return Status.PAUSED
        return process.status

    def process(self, exec_id: str) -> FakeProcess:
        """Return a process by its exec id; empty is init.

        Raises:
            GRPCError: There is none, or the shim is dead.
        """
        if not exec_id:
            return self.init
        if exec_id not in self.execs:
            raise refuse(Code.NOT_FOUND, f"process does not exist {exec_id}")
        return self.execs[exec_id]

    def shim_error(self, text: str) -> GRPCError:
        """Return an error that comes from the shim."""
        return refuse_plainly(Code.UNKNOWN, text + self._shim.release.shim_suffix)

    def publish(self, topic: str, event: Message) -> None:
        """Publish an event as the shim does."""
        self._shim.publish(topic, event)

    # --- verbs --------------------------------------------------------------------------------------------------------

    def start(self, exec_id: str) -> FakeProcess:
        """Start a process."""
        process = self.process(exec_id)
        status = self.status_of(process)
        if status != Status.CREATED or process.broken:
            raise self.shim_error(f"cannot start a {_STATE_NAMES[status]} process")
        if exec_id:
            self._start_exec(process)
        else:
            self._start_init()
        return process

    def _start_init(self) -> None:
        fate = self.init.program
        if isinstance(fate, Fate):
            if fate.start_error:
                self.init.broken = True
                raise self.shim_error(fate.start_error)
            if fate.oom and fate.oom_event == "before-start":
                self.out_of_memory()
        # The event comes first: a process that ends at once has been started.
        self.publish("/tasks/start", wire.TaskStart(container_id=self.id, pid=self.init.pid))
        self._shim.start(self.init)

    def _start_exec(self, process: FakeProcess) -> None:
        if self.init.status == Status.STOPPED:
            if self._shim.release.exec_needs_running:
                raise refuse(Code.FAILED_PRECONDITION, f"container {self.id} init process is not running")
            raise self.shim_error("OCI runtime exec failed: exec failed: cannot exec in a stopped container")
        fate = process.program
        error = fate.start_error if isinstance(fate, Fate) else ""
        missing = missing_program(process.args, process.env, self.rootfs)
        if not process.args:
            error = "args must not be empty"
        elif missing:
            error = f"unable to start container process: {missing}"
        if error:
            process.broken = True
            process.ended.set()  # its Wait answers at once, with 0
            raise self.shim_error(f"OCI runtime exec failed: exec failed: {error}")
        self._shim.start(process)

    def add_exec(self, process: FakeProcess) -> None:
        """Add a process that is to be started later."""
        status = self.status
        if status in {Status.PAUSED, Status.STOPPED}:
            raise self.shim_error(f"cannot exec in a {_STATE_NAMES[status]} state")
        self.execs[process.exec_id] = process
        event = wire.TaskExecAdded(container_id=self.id, exec_id=process.exec_id)
        self.publish("/tasks/exec-added", event)

    def kill(self, exec_id: str, number: int, *, everyone: bool) -> None:
        """Send a signal."""
        process = self.process(exec_id)
        if exec_id and process.pid == 0:
            raise refuse(Code.FAILED_PRECONDITION, "process not created")
        if process.status == Status.STOPPED:
            if everyone and not exec_id:
                return
            raise refuse(Code.NOT_FOUND, "process already finished")
        if not 0 <= number <= _MAX_SIGNAL:
            text = "runc did not terminate successfully: exit status 1: unable to signal init: invalid argument\n"
            raise self.shim_error(f"unknown error after kill: {text}")
        victims = [*self.execs.values(), self.init] if everyone and not exec_id else [process]
        for victim in victims:
            code = victim.reaction(number)
            if code is not None and (victim.running or victim is self.init):
                self.exit(victim, code, at_once=number == signal.SIGKILL)

    def pause(self) -> None:
        """Freeze its processes."""
        if self.status == Status.CREATED:
            raise self.shim_error("cannot pause task in created state")
        if self.status != Status.RUNNING:
            raise self.shim_error(f"cannot pause a {_STATE_NAMES[self.status]} container")
        self.paused = True
        self.publish("/tasks/paused", wire.TaskPaused(container_id=self.id))

    def resume(self) -> None:
        """Thaw its processes."""
        if self.status == Status.CREATED:
            raise self.shim_error("cannot resume task in created state")
        if self.status != Status.PAUSED:
            what = "process" if self.status == Status.RUNNING else "container"
            raise self.shim_error(f"cannot resume a {_STATE_NAMES[self.status]} {what}")
        self.paused = False
        self.publish("/tasks/resumed", wire.TaskResumed(container_id=self.id))
        due, self._due = self._due, []
        for process, code, oom_event in due:
            self.exit(process, code, oom_event=oom_event)

    def update(self) -> None:
        """Change limits, of which the fake keeps none."""
        if self.status == Status.STOPPED:
            raise self.shim_error("cannot update a stopped container")

    # --- what happens -------------------------------------------------------------------------------------------------

    def program_ended(self, process: FakeProcess, code: int) -> None:
        """Take it that a program ended, in the way its fate says."""
        fate = process.program
        if isinstance(fate, Fate) and fate.oom:
            self.exit(process, 128 + signal.SIGKILL, oom_event=fate.oom_event)
        else:
            self.exit(process, code)

    def exit(
        self, process: FakeProcess, code: int, *, at_once: bool = False, oom_event: str | None = None
    ) -> None:
        """End a process; the end of init ends the others first, as the kernel does to a pid namespace.

        Args:
            process: The process.
            code: Its exit code.
            at_once: Even when the task is paused; otherwise that waits until it is resumed.
            oom_event: It dies for lack of memory, and this is when the event of it is published; see `Fate.oom_event`.
        """
        if process.status == Status.STOPPED:
            return
        if self.paused and not at_once:
            self._due.append((process, code, oom_event))
            return
        if oom_event in {"before-exit", "after-exit", "never"}:
            self.out_of_memory(event=oom_event == "before-exit")
        if process is self.init:
            for other in self.execs.values():
                if other.running:
                    self._stop(other, 128 + signal.SIGKILL)
            self.paused = False
        self._stop(process, code)
        if oom_event == "after-exit":
            self.publish("/tasks/oom", wire.TaskOom(container_id=self.id))

    def _stop(self, process: FakeProcess, code: int) -> None:
        process.stopped(code, self._shim.now_ns())
        self.publish_exit(process)

    def publish_exit(self, process: FakeProcess, *, code: int | None = None) -> None:
        """Publish the exit of a process, once more perhaps, or with another code."""
        event = wire.TaskExit(
            container_id=self.id,
            id=process.exec_id or self.id,
            pid=process.pid,
            exit_status=process.exit_status if code is None else code,
            exited_at=to_timestamp(process.exited_at_ns if code is None else self._shim.now_ns()),
        )
        self.publish("/tasks/exit", event)

    def out_of_memory(self, *, event: bool = True) -> None:
        """Have the cgroup count an OOM kill, and publish it unless told not to; nothing ends by it."""
        self.oom_kills += 1
        if event:
            self.publish("/tasks/oom", wire.TaskOom(container_id=self.id))

    # --- the end ------------------------------------------------------------------------------------------------------

    def delete_process(self, exec_id: str) -> FakeProcess:
        """Delete an exec that does not run."""
        process = self.process(exec_id)
        if process.running:
            raise self.shim_error("cannot delete a running process")
        if exec_id:
            process.halt()
            process.ended.set()
            del self.execs[exec_id]
        return process

    def check_deletable(self) -> None:
        """Refuse to delete it while it runs."""
        if self.status in {Status.RUNNING, Status.PAUSED}:
            text = f"failed to delete task: cannot delete a {_STATE_NAMES[self.status]} process"
            raise self.shim_error(text)

    def delete(self) -> tuple[int, int | None]:
        """End the shim, publish the end of the task, and return the exit code and time the reply tells."""
        init = self.init
        if init.status == Status.STOPPED:
            self.close()
            self._publish_delete(init.exit_status, init.exited_at_ns)
            return init.exit_status, init.exited_at_ns
        # Never started: it is killed, and the two events come in an order that is the release's own.
        self.close()
        if self._shim.release.exit_before_delete:
            self._publish_killed()
            self._publish_delete(0, None)
        else:
            self._publish_delete(0, None)
            self._publish_killed()
        return 0, None

    def _publish_killed(self) -> None:
        event = wire.TaskExit(
            container_id=self.id,
            id=self.id,
            pid=self.init.pid,
            exit_status=128 + signal.SIGKILL,
            exited_at=to_timestamp(None),
        )
        self.publish("/tasks/exit", event)

    def _publish_delete(self, code: int, at_ns: int | None) -> None:
        event = wire.TaskDelete(
            container_id=self.id, pid=self.init.pid, exit_status=code, exited_at=to_timestamp(at_ns)
        )
        self.publish("/tasks/delete", event)

    def close(self) -> None:
        """End its processes without a word; who waits for them learns that the shim is gone."""
        self.shim_alive = False
        for process in (self.init, *self.execs.values()):
            process.halt()
            process.ended.set()

    def publish_clean_up(self, *, code: int, pid: int | None = None) -> None:
        """Publish what the daemon says when it has cleaned up after a dead shim."""
        now = to_timestamp(self._shim.now_ns())
        exit_event = wire.TaskExit(
            container_id=self.id,
            id=self.id,
            pid=self.init.pid if pid is None else pid,
            exit_status=code,
            exited_at=now,
        )
        delete_event = wire.TaskDelete(
            container_id=self.id, pid=exit_event.pid, exit_status=code, exited_at=now
        )
        self.publish("/tasks/exit", exit_event)
        self.publish("/tasks/delete", delete_event)
