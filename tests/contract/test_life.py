"""A task from its creation to its deletion: replies, states, events and their order."""

from __future__ import annotations

import signal

import anyio
import pytest

from containerd_aio import stdio
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import (
    ContainerRuntime,
    CreateContainerRequest,
    DeleteContainerRequest,
)
from containerd_aio.api.containerd.services.tasks.v1 import (
    CheckpointTaskRequest,
    CloseIoRequest,
    CreateTaskRequest,
    DeleteProcessRequest,
    DeleteTaskRequest,
    GetRequest,
    KillRequest,
    ListPidsRequest,
    ListTasksRequest,
    MetricsRequest,
    PauseTaskRequest,
    ResizePtyRequest,
    ResumeTaskRequest,
    StartRequest,
    UpdateTaskRequest,
    WaitRequest,
)
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.events.model import TaskCreate, TaskDelete, TaskExit, TaskStart
from tests.contract.backend import YEAR_ONE, Backend, refused, short, until_stopped

SPEC = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")
LIMITS = AnyMessage(
    type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
    value=b'{"cpu":{"shares":512}}',
)
BAD_SIGNAL = (
    "unknown error after kill: runc did not terminate successfully: exit status 1: "
    "unable to signal init: invalid argument\n"
)
TRAP = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"


async def test_a_whole_life(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.container("sh", "-c", "exit 42") as container:
        task = await container.new_task()
        created = await backend.get(container.id)
        assert (created.id, created.container_id, created.status) == (container.id, "", Status.CREATED)
        assert created.pid == task.pid
        assert created.exited_at is not None
        assert created.exited_at.seconds == YEAR_ONE
        await task.start()
        assert await backend.wait(container.id) == 42
        stopped = await backend.get(container.id)
        assert (stopped.pid, stopped.status, stopped.exit_status) == (task.pid, Status.STOPPED, 42)
        assert stopped.exited_at is not None
        assert stopped.exited_at.seconds > 1_600_000_000
        reply = await backend.tasks.delete(DeleteTaskRequest(container_id=container.id))
        assert (reply.id, reply.pid, reply.exit_status) == ("", task.pid, 42)
        assert reply.exited_at == stopped.exited_at

        events = await recorder.published_after_delete()
        assert short(events, delete=False) == [("create", ""), ("start", ""), ("exit", "")]
        create, start, exit_, *delete = (event for event in events if event.topic.startswith("/tasks/"))
        assert isinstance(create, TaskCreate)
        assert isinstance(start, TaskStart)
        assert isinstance(exit_, TaskExit)
        assert (create.container_id, create.pid, len(create.rootfs)) == (container.id, task.pid, 1)
        assert create.bundle.endswith(
            f"/io.containerd.runtime.v2.task/{backend.client.namespace}/{container.id}"
        )
        assert create.io is not None
        assert not create.io.terminal
        assert start.pid == task.pid
        assert (exit_.id, exit_.pid, exit_.exit_status) == (container.id, task.pid, 42)
        assert exit_.exited_at_ns is not None
        assert exit_.exited_at_ns <= exit_.timestamp_ns
        for event in delete:
            assert isinstance(event, TaskDelete)
            assert (event.id, event.pid, event.exit_status) == ("", task.pid, 42)
            assert event.exited_at_ns == exit_.exited_at_ns


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "false || exit 9"], 9),
        (["sh", "-c", "sleep 0.05; exit 7"], 7),
    ],
)
async def test_exit_codes(backend: Backend, args: list[str], code: int) -> None:
    async with backend.running(*args) as (name, task):
        assert await backend.wait(name) == code
        assert (await task.delete()).code == code


async def test_a_task_that_runs_refuses(backend: Backend) -> None:
    async with backend.running() as (name, _):
        assert (await backend.get(name)).status == Status.RUNNING
        tasks, shim = backend.tasks, backend.shim
        assert await refused(tasks.create(CreateTaskRequest(container_id=name))) == (
            "AlreadyExists",
            f"task {name}: already exists",
        )
        assert await refused(tasks.start(StartRequest(container_id=name))) == (
            "Unknown",
            shim("cannot start a running process"),
        )
        assert await refused(tasks.delete(DeleteTaskRequest(container_id=name))) == (
            "Unknown",
            shim("failed to delete task: cannot delete a running process"),
        )
        assert await refused(tasks.delete_process(DeleteProcessRequest(container_id=name))) == (
            "Unknown",
            shim("cannot delete a running process"),
        )
        assert await refused(tasks.resume(ResumeTaskRequest(container_id=name))) == (
            "Unknown",
            shim("cannot resume a running process"),
        )
        assert await refused(tasks.kill(KillRequest(container_id=name, signal=999))) == (
            "Unknown",
            shim(BAD_SIGNAL),
        )
        # Nothing came of all that, nor of what is of no use without a terminal or a pipe.
        await tasks.resize_pty(ResizePtyRequest(container_id=name, width=80, height=25))
        await tasks.close_io(CloseIoRequest(container_id=name, stdin=True))
        await tasks.kill(KillRequest(container_id=name, signal=0))
        await tasks.update(UpdateTaskRequest(container_id=name, resources=LIMITS))
        assert (await backend.get(name)).status == Status.RUNNING


async def test_a_created_task_refuses(backend: Backend) -> None:
    async with backend.container("sleep", "1000") as container:
        await container.new_task()
        name, tasks, shim = container.id, backend.tasks, backend.shim
        assert await refused(tasks.create(CreateTaskRequest(container_id=name))) == (
            "AlreadyExists",
            f"task {name}: already exists",
        )
        assert await refused(tasks.pause(PauseTaskRequest(container_id=name))) == (
            "Unknown",
            shim("cannot pause task in created state"),
        )
        assert await refused(tasks.resume(ResumeTaskRequest(container_id=name))) == (
            "Unknown",
            shim("cannot resume task in created state"),
        )


async def test_a_stopped_task_refuses(backend: Backend) -> None:
    async with backend.running("sh", "-c", "exit 3") as (name, _):
        await until_stopped(backend, name)
        tasks, shim = backend.tasks, backend.shim
        assert await refused(tasks.kill(KillRequest(container_id=name, signal=9))) == (
            "NotFound",
            "process already finished: not found",
        )
        await tasks.kill(KillRequest(container_id=name, signal=9, all=True))
        assert await refused(tasks.start(StartRequest(container_id=name))) == (
            "Unknown",
            shim("cannot start a stopped process"),
        )
        assert await refused(tasks.pause(PauseTaskRequest(container_id=name))) == (
            "Unknown",
            shim("cannot pause a stopped container"),
        )
        assert await refused(tasks.resume(ResumeTaskRequest(container_id=name))) == (
            "Unknown",
            shim("cannot resume a stopped container"),
        )
        assert await refused(tasks.update(UpdateTaskRequest(container_id=name, resources=LIMITS))) == (
            "Unknown",
            shim("cannot update a stopped container"),
        )
        assert await refused(backend.add_exec(name, "late", "true")) == (
            "Unknown",
            shim("cannot exec in a stopped state"),
        )
        assert await refused(tasks.create(CreateTaskRequest(container_id=name))) == (
            "AlreadyExists",
            f"task {name}: already exists",
        )
        assert (await tasks.list_pids(ListPidsRequest(container_id=name))).processes == []
        await tasks.resize_pty(ResizePtyRequest(container_id=name, width=80, height=25))
        await tasks.close_io(CloseIoRequest(container_id=name, stdin=True))


async def test_what_does_not_exist_is_not_found(backend: Backend) -> None:
    async with backend.container("true") as container:
        for name, text in [
            ("nobody", f'container "nobody" in namespace "{backend.client.namespace}": not found'),
            ("", f'container "" in namespace "{backend.client.namespace}": not found'),
            (container.id, f"task {container.id} not found"),
        ]:
            tasks = backend.tasks
            calls = [
                tasks.get(GetRequest(container_id=name)),
                tasks.start(StartRequest(container_id=name)),
                tasks.wait(WaitRequest(container_id=name)),
                tasks.kill(KillRequest(container_id=name, signal=9)),
                tasks.delete(DeleteTaskRequest(container_id=name)),
                tasks.delete_process(DeleteProcessRequest(container_id=name, exec_id="e")),
                tasks.pause(PauseTaskRequest(container_id=name)),
                tasks.resume(ResumeTaskRequest(container_id=name)),
                tasks.list_pids(ListPidsRequest(container_id=name)),
                tasks.resize_pty(ResizePtyRequest(container_id=name)),
                tasks.close_io(CloseIoRequest(container_id=name)),
                tasks.update(UpdateTaskRequest(container_id=name, resources=LIMITS)),
                backend.add_exec(name, "e", "true"),
            ]
            for call in calls:
                assert await refused(call) == ("NotFound", text)
        assert await refused(backend.tasks.create(CreateTaskRequest(container_id="nobody"))) == (
            "NotFound",
            f'container "nobody" in namespace "{backend.client.namespace}": not found',
        )
        assert (await backend.tasks.metrics(MetricsRequest(filters=[f"id=={container.id}"]))).metrics == []


async def test_a_deleted_task_is_forgotten(backend: Backend) -> None:
    async with backend.running("true") as (name, _):
        await backend.wait(name)
        await backend.tasks.delete(DeleteTaskRequest(container_id=name))
        not_found = ("NotFound", f"task {name} not found")
        assert await refused(backend.get(name)) == not_found
        assert await refused(backend.wait(name)) == not_found
        assert await refused(backend.tasks.delete(DeleteTaskRequest(container_id=name))) == not_found


async def test_a_created_task_may_be_deleted(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.container("sleep", "1000") as container:
        task = await container.new_task()
        failures: list[tuple[str, str]] = []

        async def wait() -> None:
            failures.append(await refused(backend.tasks.wait(WaitRequest(container_id=container.id))))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await _until_waited_for(backend)
            reply = await backend.tasks.delete(DeleteTaskRequest(container_id=container.id))
        assert (reply.pid, reply.exit_status) == (task.pid, 0)
        assert reply.exited_at is not None
        assert reply.exited_at.seconds == YEAR_ONE
        assert failures == [("Unknown", backend.shim("ttrpc: closed"))]
        ends = [
            (type(event).__name__, event.exit_status, event.exited_at_ns, event.pid)
            for event in await recorder.published_after_delete()
            if isinstance(event, TaskExit | TaskDelete)
        ]
        expected = [("TaskDelete", 0, None, task.pid), ("TaskExit", 137, None, task.pid)]
        if backend.release == "1.6":
            expected.reverse()
        if backend.fake is None and backend.release != "1.6":
            # Usually in this order, but they come from two places, and the exit perhaps after the reply.
            assert {*ends} <= {*expected}
        else:
            assert ends == expected


async def _until_waited_for(backend: Backend) -> None:
    """A Wait that was sent before this is under way when this returns: calls of one connection are taken in order."""
    for _ in range(3):
        await backend.client.version()


async def test_a_created_task_may_be_killed(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.container("sleep", "1000") as container:
        await container.new_task()
        await backend.tasks.kill(KillRequest(container_id=container.id, signal=9))
        stopped = await until_stopped(backend, container.id)
        assert stopped.exit_status == 137
        assert stopped.exited_at.seconds > 1_600_000_000
        assert await refused(backend.tasks.start(StartRequest(container_id=container.id))) == (
            "Unknown",
            backend.shim("cannot start a stopped process"),
        )
        await backend.tasks.delete(DeleteTaskRequest(container_id=container.id))
        events = await recorder.published_after_delete()
        assert short(events, delete=False) == [("create", ""), ("exit", "")]


async def test_signals(backend: Backend) -> None:
    async with backend.container("sh", "-c", "echo ready; sleep 1000") as container:
        async with await container.new_task(io=stdio.pipes()) as task:
            await task.start()
            assert task.stdout is not None
            assert await task.stdout.receive() == b"ready\n"  # until then it is runc that gets the signals
            # Init has no handler: the kernel drops everything but SIGKILL.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGWINCH):
                await backend.tasks.kill(KillRequest(container_id=container.id, signal=number))
            assert (await backend.get(container.id)).status == Status.RUNNING
            await backend.tasks.kill(KillRequest(container_id=container.id, signal=9))
            assert await backend.wait(container.id) == 137


async def test_a_signal_with_a_handler(backend: Backend) -> None:
    async with backend.container("sh", "-c", TRAP) as container:
        async with await container.new_task(io=stdio.pipes()) as task:
            await task.start()
            assert task.stdout is not None
            assert await task.stdout.receive() == b"ready\n"
            await backend.tasks.kill(KillRequest(container_id=container.id, signal=signal.SIGTERM))
            assert await backend.wait(container.id) == 3


async def test_kill_all(backend: Backend) -> None:
    async with backend.running() as (name, _):
        await backend.tasks.kill(KillRequest(container_id=name, signal=9, all=True))
        assert await backend.wait(name) == 137


async def test_wait(backend: Backend) -> None:
    async with backend.container("sh", "-c", "exit 5") as container:
        task = await container.new_task()
        codes: list[int] = []

        async def wait() -> None:
            codes.append(await backend.wait(container.id))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)  # before it is started they just wait
            await _until_waited_for(backend)
            assert codes == []
            await task.start()
        await wait()  # and after it they are answered at once
        assert codes == [5] * 4


async def test_pause_and_resume(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.running() as (name, _):
        tasks, shim = backend.tasks, backend.shim
        await tasks.pause(PauseTaskRequest(container_id=name))
        assert (await backend.get(name)).status == Status.PAUSED
        assert await refused(tasks.pause(PauseTaskRequest(container_id=name))) == (
            "Unknown",
            shim("cannot pause a paused container"),
        )
        assert await refused(backend.add_exec(name, "e", "true")) == (
            "Unknown",
            shim("cannot exec in a paused state"),
        )
        assert await refused(tasks.delete(DeleteTaskRequest(container_id=name))) == (
            "Unknown",
            shim("failed to delete task: cannot delete a paused process"),
        )
        assert await refused(tasks.start(StartRequest(container_id=name))) == (
            "Unknown",
            shim("cannot start a paused process"),
        )
        await tasks.resume(ResumeTaskRequest(container_id=name))
        assert (await backend.get(name)).status == Status.RUNNING
        events = await recorder.until_topic("/tasks/resumed")
        assert short(events) == [("create", ""), ("start", ""), ("paused", ""), ("resumed", "")]


async def test_a_paused_task_may_be_killed(backend: Backend) -> None:
    async with backend.running() as (name, _):
        await backend.tasks.pause(PauseTaskRequest(container_id=name))
        await backend.tasks.kill(KillRequest(container_id=name, signal=9))
        assert (await until_stopped(backend, name)).exit_status == 137
        assert await refused(backend.tasks.resume(ResumeTaskRequest(container_id=name))) == (
            "Unknown",
            backend.shim("cannot resume a stopped container"),
        )


async def test_listing(backend: Backend) -> None:
    async with backend.running() as (name, task):
        # The filter of the request is ignored by every release.
        found = (await backend.tasks.list(ListTasksRequest(filter="id==nobody"))).tasks
        assert [(process.id, process.pid, process.container_id) for process in found] == [
            (name, task.pid, "")
        ]
        elsewhere = backend.client.namespaced("elsewhere").services.tasks
        assert (await elsewhere.list(ListTasksRequest())).tasks == []
        pids = (await backend.tasks.list_pids(ListPidsRequest(container_id=name))).processes
        assert [(info.pid, info.info) for info in pids] == [(task.pid, None)]


async def test_a_container_record_may_go_before_its_task(backend: Backend) -> None:
    async with backend.running() as (name, _):
        info = await backend.client.container(name)
        containers = backend.client.services.containers
        await containers.delete(DeleteContainerRequest(id=name))
        assert await refused(backend.get(name)) == (
            "NotFound",
            f'container "{name}" in namespace "{backend.client.namespace}": not found',
        )
        assert [process.id for process in (await backend.tasks.list(ListTasksRequest())).tasks] == [name]
        await containers.create(CreateContainerRequest(container=info._info.raw))
        assert (await backend.get(name)).status == Status.RUNNING


async def test_a_program_that_is_not_there(backend: Backend) -> None:
    for args, reason in [
        (["/no/such/program"], "stat /no/such/program: no such file or directory"),
        (["no-such-program"], "executable file not found in $PATH"),
    ]:
        async with backend.recorder() as recorder, backend.container(*args) as container:
            text = f'unable to start container process: exec: "{args[0]}": {reason}'
            assert await refused(container.new_task()) == (
                "Unknown",
                backend.shim(
                    f"failed to create shim task: OCI runtime create failed: runc create failed: {text}"
                ),
            )
            assert await refused(backend.get(container.id)) == ("NotFound", f"task {container.id} not found")
            await backend.client.publish("/contract/end")
            assert short(await recorder.until_topic("/contract/end")) == []


async def test_runtimes_that_are_not_there(backend: Backend) -> None:
    example = "io.containerd.runc.v2" if backend.release == "2.1" else "io.containerd.runc.v1"
    resolve = "failed to start shim: failed to resolve runtime path: "
    missing = 'runtime "io.containerd.nosuch.v1" binary not installed "containerd-shim-nosuch-v1"'
    missing += ": file does not exist"
    weird = f"invalid runtime name weird, correct runtime name should be either format like `{example}`"
    weird += " or a full path to the binary"
    create = "failed to create shim task: OCI runtime create failed: runc create failed: "
    for runtime, text in [
        (
            "io.containerd.nosuch.v1",
            resolve + missing,
        ),
        (
            "weird",
            resolve + weird,
        ),
        ("io.containerd.runc.v2", backend.shim(create + "process property must not be empty")),
    ]:
        name = backend.id()
        raw = RawContainer(id=name, runtime=ContainerRuntime(name=runtime), spec=SPEC)
        containers = backend.client.services.containers
        await containers.create(CreateContainerRequest(container=raw))
        assert await refused(backend.tasks.create(CreateTaskRequest(container_id=name))) == ("Unknown", text)
        await containers.delete(DeleteContainerRequest(id=name))


async def test_a_checkpoint_without_criu(backend: Backend) -> None:
    async with backend.running() as (name, _):
        class_name, text = await refused(backend.tasks.checkpoint(CheckpointTaskRequest(container_id=name)))
        assert class_name == "Unknown"
        head = "runc did not terminate successfully: exit status 1: CRIU version check failed: "
        assert text.startswith(f'{head}exec: "criu": executable file not found in $PATH path= /')
        assert text.endswith(backend.shim(f"{name}/criu-dump.log"))
        assert (await backend.get(name)).status == Status.RUNNING
