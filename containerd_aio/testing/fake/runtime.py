"""The tasks of all namespaces, and what becomes of them when shims and the daemon come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from grpclib.const import Status as Code

from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.errors import NotFound
from containerd_aio.testing.fake.call import refuse_plainly
from containerd_aio.testing.fake.fates import Fate, Program
from containerd_aio.testing.fake.process import FakeProcess
from containerd_aio.testing.fake.programs import find_program
from containerd_aio.testing.fake.rootfs import missing_program
from containerd_aio.testing.fake.task import FakeTask, Shim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anyio.abc import TaskGroup
    from betterproto2 import Message

    from containerd_aio.api.containerd.services.containers.v1 import Container
    from containerd_aio.api.containerd.types import Mount
    from containerd_aio.testing.fake.stdio import StreamPaths
    from containerd_aio.testing.fake.world import World

FIRST_PID = 5_000_000
"""No Linux gives such a pid to a process, so that a signal sent past the daemon hits nobody."""

# Seconds after a shim failed to publish an event at which it tries again; then it gives up.
_SHIM_RETRIES = (1.0, 3.0, 6.0, 10.0, 15.0)
# Seconds that the daemon takes to clean up after a dead shim.
CLEAN_UP_DELAY = 0.1

OnStart = Callable[[FakeProcess], "Program | None"]


@dataclass(slots=True)
class Scripts:
    """What decides over the fates of processes.

    Attributes:
        by_process: By container id and exec id.
        by_name: By the name of the program.
        callbacks: Asked in this order for processes with no script.
        default: For programs nobody knows.
    """

    by_process: dict[tuple[str, str], Program] = field(default_factory=dict)
    by_name: dict[str, Program] = field(default_factory=dict)
    callbacks: list[OnStart] = field(default_factory=list)
    default: Program = field(default_factory=Fate)

    def choose(self, process: FakeProcess) -> Program:
        """Return what a process does."""
        scripted = self.by_process.get((process.container_id, process.exec_id))
        if scripted is not None:
            return scripted
        for callback in self.callbacks:
            chosen = callback(process)
            if chosen is not None:
                return chosen
        name = process.args[0] if process.args else ""
        for known in (name, name.rpartition("/")[2]):
            if known in self.by_name:
                return self.by_name[known]
        return find_program(process.args) or self.default


class Runtime:
    """The tasks.

    Args:
        world: The state around them.
        tasks: Where programs run.
        alive: Tells whether the daemon can take events.

    Attributes:
        scripts: What decides over fates.
        tasks: By namespace and container id.
        next_pids: Pids to be given next, before fresh ones.
    """

    def __init__(self, world: World, group: TaskGroup, *, alive: Callable[[], bool]) -> None:
        self._world = world
        self._group = group
        self._alive = alive
        self._pid = FIRST_PID
        self.scripts = Scripts()
        self.tasks: dict[tuple[str, str], FakeTask] = {}
        self.next_pids: list[int] = []

    # --- finding ------------------------------------------------------------------------------------------------------

    def find(self, container_id: str, namespace: str | None) -> FakeTask:
        """Return a task for a test; without a namespace, the only one of that id.

        Raises:
            NotFound: There is none, or there are several.
        """
        found = [
            task
            for (ns, name), task in self.tasks.items()
            if name == container_id and namespace in {None, ns}
        ]
        if len(found) != 1:
            where = f" in namespace {namespace!r}" if namespace else ""
            many = f"{len(found)} tasks; name the namespace" if found else f"no task{where}"
            raise NotFound(f"container {container_id!r} has {many}")
        return found[0]

    # --- verbs --------------------------------------------------------------------------------------------------------

    def create(
        self,
        namespace: str,
        container: Container,
        *,
        rootfs: Sequence[Mount],
        paths: StreamPaths,
        checkpoint: str,
    ) -> FakeTask:
        """Create a task.

        Raises:
            GRPCError: The runtime refuses it; nothing is left.
        """
        self._check_runtime(container.runtime.name if container.runtime else "")
        spec = _process_of(container)
        if not spec:
            raise self._create_failed("process property must not be empty")
        init = FakeProcess(
            namespace,
            container.id,
            "",
            spec=spec,
            paths=paths,
            program=self.scripts.default,
            on_exit=lambda process, code: task.program_ended(process, code),  # noqa: PLW0108 - it is made below
        )
        init.program = self.scripts.choose(init)
        error = init.program.create_error if isinstance(init.program, Fate) else ""
        error = error or missing_program(init.args, init.env, rootfs)
        if error:
            raise self._create_failed(f"unable to start container process: {error}")
        self._open_io(init)
        init.pid = self._give_pid()
        bundle = f"{self._world.root}/io.containerd.runtime.v2.task/{namespace}/{container.id}"
        task = self.tasks[namespace, container.id] = FakeTask(
            init, bundle, rootfs, self._shim(namespace, container.id)
        )
        event = wire.TaskCreate(
            container_id=container.id,
            bundle=bundle,
            rootfs=list(rootfs),
            io=wire.TaskIo(
                stdin=paths.stdin, stdout=paths.stdout, stderr=paths.stderr, terminal=paths.terminal
            ),
            checkpoint=checkpoint,
            pid=init.pid,
        )
        task.publish("/tasks/create", event)
        return task

    def _check_runtime(self, name: str) -> None:
        if name.startswith("/"):
            return
        parts = name.split(".")
        if len(parts) < 3:
            example = (
                "io.containerd.runc.v2" if self._world.release.name == "2.1" else "io.containerd.runc.v1"
            )
            text = (
                f"correct runtime name should be either format like `{example}` or a full path to the binary"
            )
            raise _start_failed(f"invalid runtime name {name}, {text}")
        if parts[-2] != "runc":
            binary = f"containerd-shim-{parts[-2]}-{parts[-1]}"
            raise _start_failed(f'runtime "{name}" binary not installed "{binary}": file does not exist')

    def _create_failed(self, reason: str) -> Exception:
        text = f"failed to create shim task: OCI runtime create failed: runc create failed: {reason}"
        return refuse_plainly(Code.UNKNOWN, text + self._world.release.shim_suffix)

    def _open_io(self, process: FakeProcess) -> None:
        from grpclib.exceptions import GRPCError

        from containerd_aio.testing.fake.stdio import ShimIO

        try:
            process.io = ShimIO(process.paths)
        except GRPCError as exc:
            suffix = self._world.release.shim_suffix
            raise refuse_plainly(Code.UNKNOWN, f"failed to create shim task: {exc.message}{suffix}") from exc

    def new_exec(self, task: FakeTask, exec_id: str, spec: Mapping[str, Any], paths: StreamPaths) -> None:
        """Add a process to a task."""
        process = FakeProcess(
            task.namespace,
            task.id,
            exec_id,
            spec=spec,
            paths=paths,
            program=self.scripts.default,
            on_exit=task.program_ended,
        )
        process.program = self.scripts.choose(process)
        task.add_exec(process)

    def delete(self, task: FakeTask) -> tuple[int, int | None]:
        """Delete a task and return the exit code and time that the reply tells."""
        task.check_deletable()
        self._forget(task)
        return task.delete()

    def _forget(self, task: FakeTask) -> None:
        if self.tasks.get((task.namespace, task.id)) is task:
            del self.tasks[task.namespace, task.id]

    def kill_shim(self, task: FakeTask, *, code: int, pid: int | None, delay: float) -> None:
        """Kill a task's shim: those who wait learn it at once, the daemon's clean-up comes a moment later."""
        task.close()

        def clean_up() -> None:
            task.publish_clean_up(code=code, pid=pid)
            self._forget(task)

        asyncio.get_running_loop().call_later(delay, clean_up)

    # --- the daemon comes and goes ------------------------------------------------------------------------------------

    def daemon_started(self) -> None:
        """Do what a daemon does with the shims it finds: later releases end those whose container has ended."""
        if self._world.release.keeps_dead_tasks:
            return
        for task in list(self.tasks.values()):
            if task.init.status == Status.STOPPED:
                task.close()
                self._forget(task)

    def close(self) -> None:
        """End every process."""
        for task in self.tasks.values():
            task.close()

    # --- what a task needs --------------------------------------------------------------------------------------------

    def _shim(self, namespace: str, container_id: str) -> Shim:
        return Shim(
            release=self._world.release,
            now_ns=self._world.clock.now_ns,
            publish=partial(self._publish, (namespace, container_id)),
            start=self._start,
        )

    def _publish(self, key: tuple[str, str], topic: str, event: Message) -> None:
        at_ns = self._world.clock.now_ns()
        if self._alive():
            self._world.exchange.publish(key[0], topic, event, at_ns=at_ns)
            return
        task = self.tasks.get(key)
        loop = asyncio.get_running_loop()
        began = loop.time()

        def retry(attempt: int) -> None:
            if task is not None and not task.shim_alive:
                return
            if self._alive():
                self._world.exchange.publish(key[0], topic, event, at_ns=at_ns)
            elif attempt + 1 < len(_SHIM_RETRIES):
                loop.call_at(began + _SHIM_RETRIES[attempt + 1], retry, attempt + 1)

        loop.call_at(began + _SHIM_RETRIES[0], retry, 0)

    def _start(self, process: FakeProcess) -> None:
        if process.exec_id:
            self._open_io(process)
            process.pid = self._give_pid()
            event = wire.TaskExecStarted(
                container_id=process.container_id, exec_id=process.exec_id, pid=process.pid
            )
            self._publish((process.namespace, process.container_id), "/tasks/exec-started", event)
        process.run(self._group)

    def _give_pid(self) -> int:
        if self.next_pids:
            return self.next_pids.pop(0)
        self._pid += 1
        return self._pid


def _start_failed(reason: str) -> Exception:
    return refuse_plainly(Code.UNKNOWN, f"failed to start shim: failed to resolve runtime path: {reason}")


def _process_of(container: Container) -> Mapping[str, Any]:
    if container.spec is None:
        return {}
    try:
        spec: dict[str, Any] = json.loads(container.spec.value)
    except ValueError as exc:
        raise refuse_plainly(Code.UNKNOWN, f"failed to create shim task: {exc}") from exc
    process: dict[str, Any] = spec.get("process") or {}
    return process
