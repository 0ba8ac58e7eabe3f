"""containerd.services.tasks.v1.Tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from grpclib.const import Status as Code

from containerd_aio import typeurl
from containerd_aio.api.containerd.runc.v1 import ProcessDetails
from containerd_aio.api.containerd.services.tasks.v1 import (
    CheckpointTaskRequest,
    CheckpointTaskResponse,
    CloseIoRequest,
    CreateTaskRequest,
    CreateTaskResponse,
    DeleteProcessRequest,
    DeleteResponse,
    DeleteTaskRequest,
    ExecProcessRequest,
    GetRequest,
    GetResponse,
    KillRequest,
    ListPidsRequest,
    ListPidsResponse,
    ListTasksRequest,
    ListTasksResponse,
    MetricsRequest,
    MetricsResponse,
    PauseTaskRequest,
    ResizePtyRequest,
    ResumeTaskRequest,
    StartRequest,
    StartResponse,
    TasksBase,
    UpdateTaskRequest,
    WaitRequest,
    WaitResponse,
)
from containerd_aio.api.containerd.types import Metric
from containerd_aio.api.containerd.v1.types import Process, ProcessInfo, Status
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import identifier_fault, refuse, refuse_plainly, required_namespace
from containerd_aio.testing.fake.clock import to_timestamp
from containerd_aio.testing.fake.filters import select
from containerd_aio.testing.fake.metrics import measure
from containerd_aio.testing.fake.runtime import CLEAN_UP_DELAY
from containerd_aio.testing.fake.stdio import StreamPaths

if TYPE_CHECKING:
    from containerd_aio.testing.fake.metrics import CgroupVersion
    from containerd_aio.testing.fake.process import FakeProcess
    from containerd_aio.testing.fake.runtime import Runtime
    from containerd_aio.testing.fake.task import FakeTask
    from containerd_aio.testing.fake.world import World

_KILLED = 137


class TasksService(TasksBase):
    """The tasks: requests to verbs, states to replies."""

    def __init__(self, world: World, runtime: Runtime, cgroup: CgroupVersion) -> None:
        self._world = world
        self._runtime = runtime
        self._cgroup = cgroup

    def _container(self, container_id: str) -> Any:
        namespace = required_namespace()
        found = self._world.store.look(namespace).containers.get(container_id)
        if found is None:
            raise refuse(Code.NOT_FOUND, f'container "{container_id}" in namespace "{namespace}"')
        return found

    def _task(self, container_id: str) -> FakeTask:
        self._container(container_id)
        task = self._runtime.tasks.get((required_namespace(), container_id))
        if task is None:
            raise refuse_plainly(Code.NOT_FOUND, f"task {container_id} not found")
        return task

    def _answering(self, container_id: str) -> FakeTask:
        task = self._task(container_id)
        if not task.shim_alive:
            raise task.shim_error("ttrpc: closed")
        return task

    # --- life ---------------------------------------------------------------------------------------------------------

    async def create(self, message: CreateTaskRequest) -> CreateTaskResponse:
        """Create a task."""
        container = self._container(message.container_id)
        namespace = required_namespace()
        if (namespace, container.id) in self._runtime.tasks:
            raise refuse(Code.ALREADY_EXISTS, f"task {container.id}")
        task = self._runtime.create(
            namespace,
            container,
            rootfs=message.rootfs,
            paths=StreamPaths(message.stdin, message.stdout, message.stderr, message.terminal),
            checkpoint=message.checkpoint.digest if message.checkpoint else "",
        )
        return CreateTaskResponse(container_id=container.id, pid=task.pid)

    async def start(self, message: StartRequest) -> StartResponse:
        """Start a process."""
        return StartResponse(pid=self._answering(message.container_id).start(message.exec_id).pid)

    async def delete(self, message: DeleteTaskRequest) -> DeleteResponse:
        """Delete a task."""
        task = self._answering(message.container_id)
        code, at_ns = self._runtime.delete(task)
        return DeleteResponse(pid=task.pid, exit_status=code, exited_at=to_timestamp(at_ns))

    async def delete_process(self, message: DeleteProcessRequest) -> DeleteResponse:
        """Delete an exec."""
        process = self._answering(message.container_id).delete_process(message.exec_id)
        return DeleteResponse(
            id=message.exec_id,
            pid=process.pid,
            exit_status=process.exit_status,
            exited_at=to_timestamp(process.exited_at_ns),
        )

    async def exec(self, message: ExecProcessRequest) -> Empty:
        """Add a process."""
        if not message.exec_id:
            raise refuse_plainly(Code.INVALID_ARGUMENT, "exec id cannot be empty")
        task = self._answering(message.container_id)
        fault = identifier_fault(message.exec_id)
        if fault:
            raise refuse(Code.INVALID_ARGUMENT, f"invalid exec id {message.exec_id}: {fault}")
        if message.exec_id in task.execs:
            raise refuse(Code.ALREADY_EXISTS, f"id {message.exec_id}")
        if message.spec is None:
            raise self._crash_shim(task)
        try:
            spec = json.loads(message.spec.value)
        except ValueError:
            head = message.spec.value[:1].decode(errors="replace")
            raise task.shim_error(f"invalid character '{head}' looking for beginning of value") from None
        paths = StreamPaths(message.stdin, message.stdout, message.stderr, message.terminal)
        self._runtime.new_exec(task, message.exec_id, spec, paths)
        return Empty()

    def _crash_shim(self, task: FakeTask) -> Exception:
        """Do what real shims do when they are sent a message without its inner message: die."""
        self._runtime.kill_shim(task, code=_KILLED, pid=None, delay=CLEAN_UP_DELAY)
        return task.shim_error("ttrpc: closed")

    # --- looking ------------------------------------------------------------------------------------------------------

    async def get(self, message: GetRequest) -> GetResponse:
        """Describe a process."""
        task = self._task(message.container_id)
        if not task.shim_alive:
            raise refuse_plainly(Code.NOT_FOUND, "not found")
        return GetResponse(process=_describe(task, task.process(message.exec_id)))

    async def list(self, message: ListTasksRequest) -> ListTasksResponse:  # noqa: ARG002
        """Describe the tasks of the namespace whose shims answer; every release ignores the filter."""
        namespace = required_namespace()
        return ListTasksResponse(
            tasks=[
                _describe(task, task.init)
                for (ns, _), task in self._runtime.tasks.items()
                if ns == namespace and task.shim_alive
            ]
        )

    async def list_pids(self, message: ListPidsRequest) -> ListPidsResponse:
        """List the pids of a task."""
        task = self._answering(message.container_id)
        infos = [ProcessInfo(pid=task.pid)] if task.init.status != Status.STOPPED else []
        for exec_id, process in task.execs.items():
            if process.running:
                info = typeurl.pack(ProcessDetails(exec_id=exec_id))
                infos.append(ProcessInfo(pid=process.pid, info=info))
        return ListPidsResponse(processes=infos)

    async def metrics(self, message: MetricsRequest) -> MetricsResponse:
        """Measure the tasks that match."""
        try:
            namespace = required_namespace()
        except Exception as exc:
            text = "namespace is required: failed precondition"
            raise refuse_plainly(Code.UNKNOWN, text) from exc
        tasks = [task for (ns, _), task in self._runtime.tasks.items() if ns == namespace and task.shim_alive]
        chosen = select(
            tasks,
            message.filters,
            lambda task: {"id": task.id, "namespace": task.namespace},
            status=Code.UNKNOWN,
        )
        now = self._world.clock.timestamp()
        return MetricsResponse(
            metrics=[Metric(timestamp=now, id=task.id, data=measure(task, self._cgroup)) for task in chosen]
        )

    async def wait(self, message: WaitRequest) -> WaitResponse:
        """Answer when a process has ended."""
        task = self._answering(message.container_id)
        process = task.process(message.exec_id)
        await process.ended.wait()
        if process.status != Status.STOPPED and not process.broken:
            raise task.shim_error("ttrpc: closed")
        return WaitResponse(exit_status=process.exit_status, exited_at=to_timestamp(process.exited_at_ns))

    # --- steering -----------------------------------------------------------------------------------------------------

    async def kill(self, message: KillRequest) -> Empty:
        """Send a signal."""
        task = self._answering(message.container_id)
        task.kill(message.exec_id, message.signal, everyone=message.all)
        return Empty()

    async def pause(self, message: PauseTaskRequest) -> Empty:
        """Freeze a task."""
        self._answering(message.container_id).pause()
        return Empty()

    async def resume(self, message: ResumeTaskRequest) -> Empty:
        """Thaw a task."""
        self._answering(message.container_id).resume()
        return Empty()

    async def update(self, message: UpdateTaskRequest) -> Empty:
        """Change limits."""
        task = self._answering(message.container_id)
        if message.resources is None:
            raise self._crash_shim(task)
        task.update()
        return Empty()

    async def resize_pty(self, message: ResizePtyRequest) -> Empty:
        """Change nothing, as without a terminal."""
        self._answering(message.container_id).process(message.exec_id)
        return Empty()

    async def close_io(self, message: CloseIoRequest) -> Empty:
        """Close the shim's own writer of stdin."""
        process = self._answering(message.container_id).process(message.exec_id)
        if message.stdin and process.io is not None:
            process.io.close_stdin()
        return Empty()

    async def checkpoint(self, message: CheckpointTaskRequest) -> CheckpointTaskResponse:
        """Refuse: there is no CRIU here."""
        task = self._answering(message.container_id)
        reason = 'CRIU version check failed: exec: "criu": executable file not found in $PATH'
        text = (
            f"runc did not terminate successfully: exit status 1: {reason} path= {task.bundle}/criu-dump.log"
        )
        raise task.shim_error(text)


def _describe(task: FakeTask, process: FakeProcess) -> Process:
    paths = process.paths
    return Process(
        id=process.exec_id or process.container_id,
        pid=process.pid,
        status=task.status_of(process),
        stdin=paths.stdin,
        stdout=paths.stdout,
        stderr=paths.stderr,
        terminal=paths.terminal,
        exit_status=process.exit_status,
        exited_at=to_timestamp(process.exited_at_ns),
    )
