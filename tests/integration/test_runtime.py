"""containerd's ``runtime`` package on real containerds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import Client, InvalidArgument, NotFound, StateChange
from containerd_aio.checkpoint import CRIU_ARCHIVE, CheckpointOptions, find_entry, read_index
from containerd_aio.oci import from_json, with_pids_limit, with_tty
from containerd_aio.runtime import (
    IO,
    ConsoleSize,
    ContainerExists,
    ContainerNotExist,
    CreateOpts,
    EventTaskMonitor,
    ExecOpts,
    ProcessExited,
    Runtime,
    RuntimeNotExist,
    Status,
    Task,
)
from tests.conftest import left_out, shared_daemon, testbed
from tests.integration.conftest import BUSYBOX

if TYPE_CHECKING:
    from containerd_aio import Daemon

COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.02; done"
ANSWER = 'trap "exit 7" TERM; echo ready; while read -r line; do echo "<$line>"; done; while :; do sleep 0.05; done'


@pytest.fixture(scope="module")
def daemon(containerd_binary: str) -> Iterator[Daemon]:
    """A daemon of each release line, with CRIU in its PATH."""
    criu = testbed.criu_dir()
    if criu is None:
        left_out("no CRIU in the test bed: run `make testbed`")
    with shared_daemon(containerd_binary, path=[criu]) as shared:
        yield shared


def _fifo(folder: Path, name: str) -> str:
    path = folder / name
    os.mkfifo(path)
    return str(path)


async def _line(path: str) -> tuple[int, str]:
    """Open the reading end of a FIFO, and return it with the first line that comes."""

    def read() -> tuple[int, str]:
        descriptor = os.open(path, os.O_RDONLY)
        data = b""
        while not data.endswith(b"\n"):
            data += os.read(descriptor, 1)
        return descriptor, data.decode()

    return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)


@pytest.mark.shows(
    "seed:runtime.Runtime",
    "seed:runtime.Runtime.ID",
    "seed:runtime.Runtime.Create",
    "seed:runtime.Runtime.Get",
    "seed:runtime.Runtime.Tasks",
    "seed:runtime.Runtime.Delete",
    "seed:runtime.CreateOpts",
    "seed:runtime.IO",
    "seed:runtime.Exit",
    "seed:runtime.State",
    "seed:runtime.TaskInfo",
    "seed:runtime.Task",
    "seed:runtime.Task.Info",
    "seed:runtime.Task.Start",
    "seed:runtime.Task.Pause",
    "seed:runtime.Task.Resume",
    "seed:runtime.Task.Pids",
    "seed:runtime.Process.ID",
    "seed:runtime.Process.State",
    "seed:runtime.Process.Kill",
    "seed:runtime.Process.CloseIO",
    "seed:runtime.TaskMonitor",
    "seed:runtime.Status",
)
async def test_the_life_of_a_task(client: Client, namespace: str, tmp_path: Path) -> None:
    told: list[str] = []

    async def handler(task: Task, change: StateChange) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(change.state)

    stdin, stdout = _fifo(tmp_path, "in"), _fifo(tmp_path, "out")
    async with (
        EventTaskMonitor(client, handler) as monitor,
        await client.new_container("a", image=BUSYBOX, args=["sh", "-c", ANSWER]),
    ):
        runtime = Runtime(client, monitor=monitor)
        assert runtime.id == "io.containerd.runc.v2"
        async with anyio.create_task_group() as tg:
            lines: list[tuple[int, str]] = []

            async def read() -> None:
                lines.append(await _line(stdout))

            tg.start_soon(read)
            writer = os.open(stdin, os.O_RDWR)  # the shim opens the other end
            task = await runtime.create("a", CreateOpts(io=IO(stdin=stdin, stdout=stdout, stderr=stdout)))
            assert (await task.state()).status is Status.CREATED
            await task.start()
        descriptor, line = lines[0]
        try:
            assert line == "ready\n"
            os.write(writer, b"hello\n")
            assert await anyio.to_thread.run_sync(os.read, descriptor, 100) == b"<hello>\n"
            state = await task.state()
            assert state.status is Status.RUNNING
            assert (state.stdin, state.stdout, state.stderr, state.terminal) == (stdin, stdout, stdout, False)
            assert state.pid == task.client_process.pid
            assert state.pid in await task.pids()
            assert task.info.namespace == namespace
            assert from_json(task.info.spec)["process"]["args"] == ["sh", "-c", ANSWER]
            assert [each.id for each in await runtime.tasks()] == ["a"]
            assert (await (await runtime.get("a")).state()).pid == state.pid
            await task.pause()
            assert (await task.state()).status is Status.PAUSED
            await task.resume()
            assert (await task.state()).status is Status.RUNNING
            os.close(writer)
            await task.close_io()
            await task.kill(15)
            assert (await task.client_process.wait(timeout=20)).code == 7
            assert (await task.state()).status is Status.STOPPED
            with pytest.raises(ProcessExited, match="runtime: process already exited"):
                await task.kill(9)
            ended = await runtime.delete(task)
        finally:
            os.close(descriptor)
        assert (ended.pid, ended.status) == (state.pid, 7)
        assert ended.timestamp is not None
        assert await runtime.tasks() == []
        assert Path(stdout).is_fifo()  # ours to remove
        with pytest.raises(ContainerNotExist):
            await task.state()
        await monitor.drain()
    assert told == ["start-container", "pause", "resume", "exit"]


@pytest.mark.shows(
    "seed:runtime.Task.Exec",
    "seed:runtime.ExecOpts",
    "seed:runtime.Task.Process",
    "seed:runtime.Task.DeleteProcess",
    "seed:runtime.Process",
    "seed:runtime.Process.ResizePty",
    "seed:runtime.ConsoleSize",
    "seed:runtime.Task.Update",
)
async def test_execs_terminals_and_limits(client: Client, tmp_path: Path) -> None:
    opts = [with_tty(), with_pids_limit(50)]
    output = _fifo(tmp_path, "out")
    held = os.open(output, os.O_RDWR | os.O_NONBLOCK)
    try:
        async with await client.new_container(
            "a", image=BUSYBOX, args=["sleep", "1000"], spec_opts=opts
        ) as made:
            runtime = Runtime(client)
            task = await runtime.create("a", CreateOpts(io=IO(stdout=output, terminal=True)))
            try:
                await task.start()
                await task.resize_pty(ConsoleSize(width=100, height=30))
                process = (await made.spec())["process"]
                process["args"] = ["stty", "size"]
                process["terminal"] = False
                shown = _fifo(tmp_path, "shown")
                process["args"] = ["sh", "-c", "stty size < /dev/console > /proc/self/fd/1; exit 3"]
                async with anyio.create_task_group() as tg:
                    lines: list[tuple[int, str]] = []

                    async def read() -> None:
                        lines.append(await _line(shown))

                    tg.start_soon(read)
                    execed = await task.exec("e", ExecOpts(spec=process, io=IO(stdout=shown, stderr=shown)))
                os.close(lines[0][0])
                assert lines[0][1] == "30 100\n"
                assert (await execed.client_process.wait(timeout=20)).code == 3
                assert (await execed.state()).status is Status.STOPPED  # its own, not the container's
                assert (await task.state()).status is Status.RUNNING
                assert (await (await task.process("e")).state()).status is Status.STOPPED
                assert (await task.delete_process("e")).status == 3
                with pytest.raises(NotFound) as caught:
                    await task.process("e")
                assert not isinstance(caught.value, ContainerNotExist | ProcessExited)
                await task.update({"pids": {"limit": 60}})
                metrics = await task.client_process.metrics()
                assert metrics.raw is not None
            finally:
                await task.client_process.delete(kill=True)
    finally:
        os.close(held)


@pytest.mark.shows(
    "seed:runtime.ErrContainerExists",
    "seed:runtime.ErrContainerNotExist",
    "seed:runtime.ErrRuntimeNotExist",
    "seed:runtime.ErrProcessExited",
)
async def test_the_four_errors(client: Client) -> None:
    runtime, nope = Runtime(client), Runtime(client, "io.containerd.nope.v2")
    with pytest.raises(ContainerNotExist, match="runtime: container does not exist"):
        await runtime.create("a")
    with pytest.raises(ContainerNotExist):
        await runtime.get("a")
    async with await client.new_container("b", image=BUSYBOX, args=["true"], runtime=nope.id):
        with pytest.raises(RuntimeNotExist, match="runtime: runtime does not exist"):
            await nope.create("b")
        with pytest.raises(ContainerNotExist):
            await nope.get("b")
    async with await client.new_container("a", image=BUSYBOX, args=["true"]):
        with pytest.raises(InvalidArgument, match="terminal"):
            await runtime.create("a", CreateOpts(io=IO(terminal=True)))
        task = await runtime.create("a")
        with pytest.raises(ContainerExists, match="runtime: container with id already exists"):
            await runtime.create("a")
        await task.start()
        await task.client_process.wait(timeout=20)
        with pytest.raises(ProcessExited):
            await task.kill(9)
        assert (await runtime.delete(task)).status == 0
        for verb in (task.pause(), task.resume(), task.pids(), task.kill(9), task.state(), task.process("x")):
            with pytest.raises(ContainerNotExist):
                await verb


async def _count(task: Task, *, above: int) -> int:
    """Return what a task has counted to, once it is more than that."""
    path = Path(f"/proc/{task.client_process.pid}/root/count")
    while True:
        text = path.read_text() if path.exists() else ""
        if text.strip().isdigit() and int(text) > above:
            return int(text)
        await (await task.exec("tick", ExecOpts(spec=TICK))).client_process.wait(timeout=20)
        await task.delete_process("tick")


TICK: Any = {"args": ["sleep", "0.05"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}


@pytest.mark.shows("seed:runtime.Task.Checkpoint", "seed:runtime.CreateOpts.Checkpoint")
async def test_a_task_goes_on_from_a_directory_and_from_a_digest(client: Client, tmp_path: Path) -> None:
    runtime = Runtime(client)
    async with await client.new_container("a", image=BUSYBOX, args=["sh", "-c", COUNTER]):
        task = await runtime.create("a")
        await task.start()
        before = await _count(task, above=5)
        with pytest.raises(InvalidArgument, match="the path of the checkpoint is empty"):
            await task.checkpoint("")
        image = await task.client_process.checkpoint("saved")
        assert image is not None
        await task.checkpoint(str(tmp_path / "dump"), CheckpointOptions(exit=True))
        assert (await task.client_process.wait(timeout=20)).code is not None
        await runtime.delete(task)
        archive = find_entry(await read_index(client.services, image.target), CRIU_ARCHIVE)
        assert archive is not None
        for checkpoint in (str(tmp_path / "dump"), archive.digest):
            task = await runtime.create("a", CreateOpts(checkpoint=checkpoint))
            await task.start()
            assert await _count(task, above=before) > before
            await task.kill(9)
            await task.client_process.wait(timeout=20)
            await runtime.delete(task)
        await image.delete()
        with pytest.raises(NotFound):
            await runtime.create("a", CreateOpts(checkpoint="sha256:" + "0" * 64))
