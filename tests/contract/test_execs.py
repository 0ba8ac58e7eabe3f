"""Further processes in a container."""

from __future__ import annotations

import signal

import anyio
import pytest

from containerd_aio import TaskExecAdded, TaskExecStarted, TaskExit, typeurl
from containerd_aio.api.containerd.runc.v1 import ProcessDetails
from containerd_aio.api.containerd.services.tasks.v1 import (
    CloseIoRequest,
    DeleteProcessRequest,
    DeleteTaskRequest,
    ExecProcessRequest,
    KillRequest,
    ListPidsRequest,
    ResizePtyRequest,
    StartRequest,
)
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.api.google.protobuf import Any as AnyMessage
from tests.contract.backend import YEAR_ONE, Backend, refused, short, until_stopped


async def test_a_whole_life(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.running() as (name, _):
        await backend.add_exec(name, "e1", "sh", "-c", "exit 7")
        created = await backend.get(name, "e1")
        assert (created.id, created.pid, created.status) == ("e1", 0, Status.CREATED)
        assert created.exited_at.seconds == YEAR_ONE
        pid = (await backend.tasks.start(StartRequest(container_id=name, exec_id="e1"))).pid
        stopped = await until_stopped(backend, name, "e1")
        assert (stopped.id, stopped.pid, stopped.exit_status) == ("e1", pid, 7)
        reply = await backend.tasks.delete_process(DeleteProcessRequest(container_id=name, exec_id="e1"))
        assert (reply.id, reply.pid, reply.exit_status) == ("e1", pid, 7)
        assert (await backend.get(name)).status == Status.RUNNING

        events = await recorder.until(lambda event: isinstance(event, TaskExit))
        assert short(events)[2:] == [("exec-added", "e1"), ("exec-started", "e1"), ("exit", "e1")]
        added, started, exit_ = events[-3:]
        assert isinstance(added, TaskExecAdded)
        assert isinstance(started, TaskExecStarted)
        assert isinstance(exit_, TaskExit)
        assert started.pid == exit_.pid == pid
        # It may be used again.
        await backend.add_exec(name, "e1", "true")
        reply = await backend.tasks.delete_process(DeleteProcessRequest(container_id=name, exec_id="e1"))
        assert (reply.id, reply.pid, reply.exit_status) == ("e1", 0, 0)


async def test_ids_and_specs_are_checked(backend: Backend) -> None:
    async with backend.running() as (name, _):
        assert await refused(backend.add_exec(name, "", "true")) == (
            "InvalidArgument",
            "exec id cannot be empty",
        )
        pattern = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
        assert await refused(backend.add_exec(name, "bad id", "true")) == (
            "InvalidArgument",
            f'invalid exec id bad id: identifier "bad id" must match {pattern}: invalid argument',
        )
        junk = ExecProcessRequest(
            container_id=name, exec_id="j", spec=AnyMessage(type_url="x", value=b"junk")
        )
        assert await refused(backend.tasks.exec(junk)) == (
            "Unknown",
            backend.shim("invalid character 'j' looking for beginning of value"),
        )
        await backend.add_exec(name, "e", "true")
        assert await refused(backend.add_exec(name, "e", "true")) == ("AlreadyExists", "id e: already exists")


async def test_execs_that_do_not_exist(backend: Backend) -> None:
    async with backend.running() as (name, _):
        tasks = backend.tasks
        for call in [
            backend.get(name, "nope"),
            backend.wait(name, "nope"),
            tasks.start(StartRequest(container_id=name, exec_id="nope")),
            tasks.kill(KillRequest(container_id=name, exec_id="nope", signal=9)),
            tasks.delete_process(DeleteProcessRequest(container_id=name, exec_id="nope")),
            tasks.resize_pty(ResizePtyRequest(container_id=name, exec_id="nope")),
            tasks.close_io(CloseIoRequest(container_id=name, exec_id="nope", stdin=True)),
        ]:
            assert await refused(call) == ("NotFound", "process does not exist nope: not found")


async def test_what_an_exec_refuses(backend: Backend) -> None:
    async with backend.running() as (name, _):
        tasks = backend.tasks
        await backend.add_exec(name, "e", "sleep", "1000")
        assert await refused(tasks.kill(KillRequest(container_id=name, exec_id="e", signal=9))) == (
            "FailedPrecondition",
            "process not created: failed precondition",
        )
        await tasks.start(StartRequest(container_id=name, exec_id="e"))
        delete = DeleteProcessRequest(container_id=name, exec_id="e")
        assert await refused(tasks.delete_process(delete)) == (
            "Unknown",
            backend.shim("cannot delete a running process"),
        )
        await tasks.kill(KillRequest(container_id=name, exec_id="e", signal=signal.SIGTERM))
        assert (await until_stopped(backend, name, "e")).exit_status == 128 + signal.SIGTERM
        assert await refused(tasks.start(StartRequest(container_id=name, exec_id="e"))) == (
            "Unknown",
            backend.shim("cannot start a stopped process"),
        )
        assert await refused(tasks.kill(KillRequest(container_id=name, exec_id="e", signal=9))) == (
            "NotFound",
            "process already finished: not found",
        )


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (
            ["/no"],
            'unable to start container process: exec: "/no": stat /no: no such file or directory',
        ),
        ([], "args must not be empty"),
    ],
)
async def test_an_exec_that_cannot_be_started(backend: Backend, args: list[str], reason: str) -> None:
    async with backend.recorder() as recorder, backend.running() as (name, _):
        await backend.add_exec(name, "e", *args)
        assert await refused(backend.tasks.start(StartRequest(container_id=name, exec_id="e"))) == (
            "Unknown",
            backend.shim(f"OCI runtime exec failed: exec failed: {reason}"),
        )
        process = await backend.get(name, "e")
        assert (process.pid, process.status) == (0, Status.CREATED)
        assert await backend.wait(name, "e") == 0  # though it never ran
        await backend.tasks.delete_process(DeleteProcessRequest(container_id=name, exec_id="e"))
        await backend.client.publish("/contract/end")
        events = await recorder.until_topic("/contract/end")
        assert short(events) == [("create", ""), ("start", ""), ("exec-added", "e")]


async def test_an_exec_with_the_name_of_the_container(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.running() as (name, task):
        await backend.add_exec(name, name, "sh", "-c", "exit 6")
        pid = (await backend.tasks.start(StartRequest(container_id=name, exec_id=name))).pid
        assert await backend.wait(name, name) == 6
        assert (await backend.get(name)).status == Status.RUNNING
        events = await recorder.until(lambda event: isinstance(event, TaskExit))
        exit_ = events[-1]
        assert isinstance(exit_, TaskExit)
        assert (exit_.container_id, exit_.id, exit_.pid) == (name, name, pid)
        assert pid != task.pid


async def test_execs_end_with_init_and_before_it(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.running() as (name, _):
        await backend.add_exec(name, "runs", "sleep", "1000")
        await backend.tasks.start(StartRequest(container_id=name, exec_id="runs"))
        await backend.add_exec(name, "waits", "true")
        pids = (await backend.tasks.list_pids(ListPidsRequest(container_id=name))).processes
        details = [typeurl.unpack(info.info) for info in pids if info.info]
        assert details == [ProcessDetails(exec_id="runs")]
        codes: dict[str, int] = {}

        async def wait(exec_id: str) -> None:
            codes[exec_id] = await backend.wait(name, exec_id)

        async with anyio.create_task_group() as group:
            group.start_soon(wait, "runs")
            group.start_soon(wait, "")
            await backend.client.version()
            await backend.tasks.kill(KillRequest(container_id=name, signal=9))
        assert codes == {"runs": 137, "": 137}
        refusal = await refused(backend.tasks.start(StartRequest(container_id=name, exec_id="waits")))
        if backend.release == "1.6":
            text = "OCI runtime exec failed: exec failed: cannot exec in a stopped container"
            assert refusal == ("Unknown", backend.shim(text))
        else:
            text = f"container {name} init process is not running: failed precondition"
            assert refusal == ("FailedPrecondition", text)
        await backend.tasks.delete(DeleteTaskRequest(container_id=name))
        assert await refused(backend.get(name, "runs")) == ("NotFound", f"task {name} not found")
        events = await recorder.published_after_delete()
        assert short(events, delete=False)[-2:] == [("exit", "runs"), ("exit", "")]


async def test_an_exec_in_a_task_that_was_not_started(backend: Backend) -> None:
    async with backend.container("sleep", "1000") as container:
        await container.new_task()
        await backend.add_exec(container.id, "early", "sh", "-c", "exit 4")
        await backend.tasks.start(StartRequest(container_id=container.id, exec_id="early"))
        assert await backend.wait(container.id, "early") == 4
        assert (await backend.get(container.id)).status == Status.CREATED
