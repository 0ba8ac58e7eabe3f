"""Scenarios that can be made to happen on a containerd that nobody restarts; the others are in ``test_survival.py``."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import (
    Client,
    ContainerdError,
    Daemon,
    Event,
    InvalidArgument,
    Subscription,
    Task,
    TaskDelete,
    TaskExecAdded,
    TaskExit,
    TaskOOM,
    Unknown,
    oci,
)
from containerd_aio.api.containerd.services.events.v1 import SubscribeRequest
from containerd_aio.api.containerd.services.tasks.v1 import GetRequest, StartRequest
from containerd_aio.api.containerd.v1.types import Status as RawStatus
from containerd_aio.testing import FaultProxy

IMAGE = "docker.io/library/busybox:latest"
EXITS = 'topic=="/tasks/exit"'
DELETIONS = 'topic=="/tasks/delete"'


@asynccontextmanager
async def running(client: Client, name: str, *args: str) -> AsyncIterator[Task]:
    """Run a command in a container."""
    async with await client.new_container(name, image=IMAGE, args=args or ["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            yield task


async def read(client: Client, events: Subscription) -> list[Event]:
    """Return what was published before this call."""
    await client.barrier()
    items = [await anext(events) for _ in range(events.pending)]
    assert all(isinstance(item, Event) for item in items)
    return [item for item in items if isinstance(item, Event)]


def shim_of(task: Task) -> int:
    """Return the pid of the shim of a task that is there."""
    return int(Path(f"/proc/{task.pid}/stat").read_text().rpartition(")")[2].split()[1])


async def _brief_lives(client: Client, turn: int) -> int:
    """Run a few commands that end at once; return how many ends were read before the reply to their start."""
    early = 0

    async def one(name: str) -> None:
        nonlocal early
        async with await client.new_container(name, image=IMAGE, args=["sh", "-c", "exit 3"]) as container:
            async with await container.new_task() as task:
                await task.start()
                early += task.exit_status is not None
                status = await task.wait(timeout=20)
                assert (status.code, status.unknown, status.pid) == (3, False, task.pid)

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(one, f"brief-{turn}-{n}")
    return early


async def test_S01_E13_exits_that_are_read_before_the_reply_to_start(client: Client) -> None:
    turns = early = 0
    while not early and turns < 20:
        early += await _brief_lives(client, turns)
        turns += 1
    print(f"{early} of {turns * 10} exits were read before the reply to start")
    assert early


async def test_S04_E12_a_shim_killed_after_the_exit_tells_another_code(client: Client) -> None:
    async with client.events(EXITS, DELETIONS) as events:
        async with await client.new_container("c", image=IMAGE, args=["sh", "-c", "exit 5"]) as container:
            async with await container.new_task() as task:
                shim = shim_of(task)
                await task.start()
                assert (await task.wait(timeout=20)).code == 5
                with anyio.fail_after(20):
                    while not isinstance(await anext(events), TaskExit):
                        pass
                    os.kill(shim, signal.SIGKILL)
                    while not isinstance(await anext(events), TaskDelete):
                        pass
                await client.barrier()
                assert (await task.wait()).code == 5
                assert (await task.delete()).code == 5


@pytest.mark.parametrize("times", [100])
async def test_S17_E01_what_is_published_right_after_subscribing_is_delivered(
    daemon: Daemon, namespace: str, times: int
) -> None:
    lost = 0
    for n in range(times):
        async with Client(daemon.address, namespace=namespace) as client:
            async with client.events(f'topic=="/race/{n}"') as events:
                await client.publish(f"/race/{n}")
                await client.barrier()
                lost += events.pending != 1
    assert lost == 0


@pytest.mark.parametrize("text", ["topic=x", "topic==/tasks/exit", "namespace==a b", "topic~=/tasks/.+"])
async def test_S18_E03_what_is_refused_here_is_what_containerd_refuses(client: Client, text: str) -> None:
    with anyio.fail_after(10), pytest.raises(Unknown, match="failed parsing subscription filters"):
        async for _ in client.services.events.subscribe(SubscribeRequest(filters=[text])):
            pass
    calls = client.statistics().sessions
    with pytest.raises(InvalidArgument):
        async with client.events(text):
            pass
    assert client.statistics().sessions == calls


@pytest.fixture
def other_namespace(daemon: Daemon, namespace: str, request: pytest.FixtureRequest) -> Any:
    """A second namespace, emptied and removed afterwards."""
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).parent.parent / "conftest.py"))
    name = f"{namespace}-{secrets.token_hex(2)}"
    yield name
    anyio.run(conftest._remove_namespace, daemon.address, name)
    for folder in (Path("/run/containerd/runc", name), *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        if folder.is_dir():
            folder.rmdir()


async def test_S21_E04_the_same_id_in_two_namespaces(
    client: Client, other_namespace: str, busybox_archive: Path
) -> None:
    other = client.namespaced(other_namespace)
    await other.import_archive(busybox_archive, unpack=True)
    async with client.events(EXITS) as ours, other.events(EXITS) as theirs:
        async with running(client, "twin") as here, running(other, "twin", "sh", "-c", "exit 3") as there:
            assert (await there.wait(timeout=20)).code == 3
            assert await read(client, ours) == []
            assert here.exit_status is None
            assert await here.status() == "running"
            await here.kill("KILL")
            assert (await here.wait(timeout=20)).code == 137
            assert (await there.wait()).code == 3
        codes = [
            [e.exit_status for e in await read(client, events) if isinstance(e, TaskExit)]
            for events in (ours, theirs)
        ]
    assert codes == [[137], [3]]


async def test_S22_E09_the_exit_of_an_exec_is_not_the_containers(client: Client) -> None:
    async with client.events(EXITS) as events, running(client, "c") as task:
        async with await task.exec("e", ["sh", "-c", "exit 4"]) as process:
            await process.start()
            assert (await process.wait(timeout=20)).code == 4
        told = await read(client, events)
        assert [(e.container_id, e.id) for e in told if isinstance(e, TaskExit)] == [("c", "e")]
        assert task.exit_status is None
        assert await task.status() == "running"


async def test_S23_E08_an_exec_with_the_id_of_its_container(client: Client) -> None:
    async with client.events(EXITS) as events, running(client, "c") as task:
        async with await task.exec("c", ["sh", "-c", "exit 4"]) as process:
            await process.start()
            assert (await process.wait(timeout=20)).code == 4
            told = await read(client, events)
            assert [(e.container_id, e.id) for e in told if isinstance(e, TaskExit)] == [("c", "c")]
            assert task.exit_status is None
            assert await task.status() == "running"
            await task.kill("KILL")
            status = await task.wait(timeout=20)
            assert (status.code, status.pid) == (137, task.pid)
            assert (await process.wait()).code == 4


async def test_S25_E17_an_exec_that_cannot_be_started(client: Client) -> None:
    async with client.events("topic~=|^/tasks/|") as events, running(client, "c") as task:
        await read(client, events)
        process = await task.exec("e", ["/no/such/program"])
        with pytest.raises(ContainerdError, match="no such"):
            await process.start()
        told = await read(client, events)
        assert [type(e) for e in told] == [TaskExecAdded]
        assert task.exit_status is None
        again = await task.exec("e", ["sh", "-c", "exit 3"])  # its id is free
        await again.start()
        assert (await again.wait(timeout=20)).code == 3


async def test_S32_E16_a_created_task_is_deleted(client: Client) -> None:
    async with client.events(EXITS, DELETIONS) as events:
        async with await client.new_container("c", image=IMAGE, args=["true"]) as container:
            task = await container.new_task()
            async with anyio.create_task_group() as group:
                group.start_soon(task.wait)
                status = await task.delete()
            assert (status.pid, status.exited_at) == (task.pid, None)
            assert task.exit_status is not None
            assert task.exit_status.exited_at is None
        # In either order, and not each time both: they come from two places, and the shim is going.
        times = [e.exited_at for e in await read(client, events) if isinstance(e, TaskExit | TaskDelete)]
        assert set(times) <= {None}
        assert client.statistics().open_tasks == 0


async def test_a_start_that_dies_ends_the_init_with_1(client: Client) -> None:
    """What runc's init tells then is no code of the user's program, which has not run."""
    folder = Path("/run/containerd/runc", client.namespace)
    codes: list[int] = []
    while 1 not in codes and len(codes) < 60:
        name = f"c{len(codes)}"
        async with await client.new_container(name, image=IMAGE, args=["sh", "-c", "exit 42"]) as container:
            async with await container.new_task() as task:
                # As a "runc start" that is killed while the init writes to it, or a moment later.
                os.close(os.open(folder / name / "exec.fifo", os.O_RDONLY))
                status = await task.wait(timeout=20)
                assert (status.unknown, status.pid) == (False, task.pid)
                codes.append(status.code)
    assert codes[-1] == 1
    assert set(codes) <= {1, 42}


async def _die_of_memory(client: Client, name: str, events: dict[str, list[str]]) -> None:
    options = [oci.with_memory_limit(20 << 20)]
    command = ["sh", "-c", "a=x; while :; do a=$a$a; done"]
    container = await client.new_container(name, image=IMAGE, args=command, spec_opts=options)
    async with container, await container.new_task() as task:
        await task.start()
        status = await task.wait(timeout=60)
        assert (status.code, status.oom_killed, status.oom_known) == (137, True, True)
        events.setdefault(name, [])


async def test_S31_E23_each_oom_event_is_told_and_none_ends_anything(client: Client) -> None:
    events: dict[str, list[str]] = {}
    async with client.events("topic~=|^/tasks/oom|") as told, anyio.create_task_group() as group:
        for n in range(6):
            group.start_soon(_die_of_memory, client, f"oom-{n}", events)
        with anyio.fail_after(60):
            first = await anext(told)
    assert isinstance(first, TaskOOM)
    assert first.container_id in events


async def _until_stopped(client: Client, name: str) -> None:
    with anyio.fail_after(20):
        reply = await client.services.tasks.get(GetRequest(container_id=name))
        while reply.process is None or reply.process.status != RawStatus.STOPPED:
            reply = await client.services.tasks.get(GetRequest(container_id=name))


async def test_S27_E21_an_oom_kill_nobody_told_us_of_is_found_in_the_metrics(
    daemon: Daemon, client: Client, namespace: str
) -> None:
    options, command = [oci.with_memory_limit(20 << 20)], ["sh", "-c", "a=x; while :; do a=$a$a; done"]
    async with FaultProxy(daemon.address) as proxy, Client(proxy.address, namespace=namespace) as deaf:
        async with await deaf.new_container("c", image=IMAGE, args=command, spec_opts=options) as container:
            async with await container.new_task() as task:
                proxy.refuse()
                await proxy.cut()  # neither the OOM nor the exit will be told
                await client.services.tasks.start(StartRequest(container_id="c"))
                await _until_stopped(client, "c")
                await client.barrier()
                assert task.exit_status is None
                proxy.refuse(False)
                status = await task.wait(timeout=20)
    assert (status.code, status.oom_killed, status.oom_known, status.unknown) == (137, True, True, False)
    assert status.source != "event"
