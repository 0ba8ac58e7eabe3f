"""containerd's ``runtime`` package: its own numbers, its four errors, monitors, and what is undone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from containerd_aio import Client, StateChange
from containerd_aio.api.containerd.v1.types import Status as RawStatus
from containerd_aio.errors import (
    AlreadyExists,
    Closed,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unknown,
)
from containerd_aio.runtime import (
    IO,
    ContainerExists,
    ContainerNotExist,
    CreateOpts,
    EventTaskMonitor,
    ProcessExited,
    Runtime,
    RuntimeNotExist,
    Status,
    Task,
    TaskMonitor,
    new_multi_task_monitor,
    new_noop_monitor,
)
from containerd_aio.runtime.errors import error_class, translated
from containerd_aio.testing.fake import FakeContainerd
from containerd_aio.testing.fake.fates import RUNS_FOR_EVER

SPEC: Any = {"process": {"args": ["job"], "cwd": "/"}}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        FakeContainerd(default=RUNS_FOR_EVER) as fake,
        Client(fake.address, namespace="ns") as opened,
    ):
        yield opened


# -- numbers and errors ---------------------------------------------------------------------------------------


@pytest.mark.shows(
    "seed:runtime.Status",
    "seed:runtime.CreatedStatus",
    "seed:runtime.RunningStatus",
    "seed:runtime.StoppedStatus",
    "seed:runtime.DeletedStatus",
    "seed:runtime.PausedStatus",
)
def test_statuses_have_numbers_of_their_own() -> None:
    assert [(status.name, status.value) for status in Status] == [
        ("CREATED", 1),
        ("RUNNING", 2),
        ("STOPPED", 3),
        ("DELETED", 4),
        ("PAUSED", 5),
    ]
    assert Status.from_raw(RawStatus.PAUSED) is Status.PAUSED  # 4 to the API
    assert Status.from_raw(RawStatus.PAUSING) is Status.RUNNING  # 5 to the API
    with pytest.raises(Unavailable, match="can't tell the state"):
        Status.from_raw(RawStatus.UNKNOWN)


NO_RUNTIME = 'failed to start shim: failed to resolve runtime path: runtime "io.containerd.nope.v2" binary not installed'


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AlreadyExists("task b: already exists"), ContainerExists),
        (NotFound("process already finished: not found"), ProcessExited),
        (NotFound('container "b" in namespace "ns": not found'), ContainerNotExist),
        (NotFound("task b not found: not found"), ContainerNotExist),
        (NotFound("process does not exist q: not found"), None),
        (Unknown(NO_RUNTIME), RuntimeNotExist),
        (NotFound(NO_RUNTIME), RuntimeNotExist),
        (InvalidArgument(NO_RUNTIME), RuntimeNotExist),
        (InvalidArgument("identifier is not valid"), None),
        (Unknown("cannot delete a running process"), None),
        (Unavailable("closed"), None),
    ],
)
def test_what_an_answer_of_containerd_is(
    error: ContainerdError, expected: type[ContainerdError] | None
) -> None:
    assert error_class(error) is expected
    with pytest.raises(expected or type(error)) as caught, translated():
        raise error
    assert (caught.value is error) is (expected is None)
    assert error.message in str(caught.value)


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ({"stdin": "in"}, "stdin is 'in'; it must be an absolute path"),
        ({"stderr": "/x", "terminal": True}, "leave stderr out"),
    ],
)
def test_streams_that_cannot_be(streams: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        IO(**streams)
    assert IO(stdout="file:///var/log/x").stdout


# -- monitors -------------------------------------------------------------------------------------------------


class Recorder:
    """A monitor that writes down what it is told, and may refuse."""

    def __init__(self, name: str, book: list[str], *, refuses: tuple[str, ...] = ()) -> None:
        self.name, self.book, self.refuses = name, book, refuses

    async def monitor(self, task: Task) -> None:
        await self._told("monitor", task)

    async def stop(self, task: Task) -> None:
        await self._told("stop", task)

    async def _told(self, verb: str, task: Task) -> None:
        await anyio.lowlevel.checkpoint()
        self.book.append(f"{self.name} {verb} {task.id}")
        if verb in self.refuses:
            raise OSError(f"{self.name} can't {verb}")


async def _task(client: Client, name: str = "a") -> Task:
    await client.new_container(name, spec=SPEC)
    return await Runtime(client).create(name)


@pytest.mark.shows("seed:runtime.NewMultiTaskMonitor", "seed:runtime.TaskMonitor.Monitor")
async def test_the_first_error_wins_and_those_before_are_rolled_back(client: Client) -> None:
    task, book = await _task(client), list[str]()
    monitors: list[TaskMonitor] = [
        Recorder("1", book),
        Recorder("2", book, refuses=("stop",)),
        Recorder("3", book, refuses=("monitor",)),
        Recorder("4", book, refuses=("monitor",)),
    ]
    with pytest.raises(OSError, match="3 can't monitor"):
        await new_multi_task_monitor(*monitors).monitor(task)
    assert book == ["1 monitor a", "2 monitor a", "3 monitor a", "2 stop a", "1 stop a"]
    book.clear()
    with pytest.raises(OSError, match="3 can't monitor"):
        await new_multi_task_monitor(*monitors, strict=True).monitor(task)
    assert book == ["1 monitor a", "2 monitor a", "3 monitor a"]


@pytest.mark.shows("seed:runtime.NewMultiTaskMonitor", "seed:runtime.TaskMonitor.Stop")
async def test_every_monitor_is_stopped_and_the_first_error_raised(client: Client) -> None:
    task, book = await _task(client), list[str]()
    monitors = [
        Recorder("1", book),
        Recorder("2", book, refuses=("stop",)),
        Recorder("3", book, refuses=("stop",)),
    ]
    with pytest.raises(OSError, match="2 can't stop"):
        await new_multi_task_monitor(*monitors).stop(task)
    assert book == ["1 stop a", "2 stop a", "3 stop a"]
    book.clear()
    with pytest.raises(OSError, match="2 can't stop"):
        await new_multi_task_monitor(*monitors, strict=True).stop(task)
    assert book == ["1 stop a", "2 stop a"]


@pytest.mark.shows("seed:runtime.NewNoopMonitor", "seed:runtime.TaskMonitor")
async def test_a_monitor_that_does_nothing(client: Client) -> None:
    task = await _task(client)
    for monitor in (new_noop_monitor(), new_multi_task_monitor()):
        await monitor.monitor(task)
        await monitor.stop(task)
        await monitor.stop(task)


async def test_a_rollback_happens_also_when_it_is_cancelled(client: Client) -> None:
    task, book = await _task(client), list[str]()
    reached = anyio.Event()

    class Stuck(Recorder):
        async def monitor(self, task: Task) -> None:
            reached.set()
            await anyio.sleep_forever()

    both = new_multi_task_monitor(Recorder("1", book), Stuck("2", book))
    async with anyio.create_task_group() as tg:
        tg.start_soon(both.monitor, task)
        await reached.wait()
        tg.cancel_scope.cancel()
    assert book == ["1 monitor a", "1 stop a"]


async def test_what_the_monitor_refuses_does_not_stay(client: Client) -> None:
    book = list[str]()
    runtime = Runtime(client, monitor=Recorder("m", book, refuses=("monitor",)))
    await client.new_container("a", spec=SPEC)
    with pytest.raises(OSError, match="m can't monitor"):
        await runtime.create("a")
    assert await runtime.tasks() == []
    with pytest.raises(ContainerNotExist):
        await runtime.get("a")
    assert (await Runtime(client).create("a")).id == "a"


async def test_a_create_that_is_cancelled_leaves_no_task(client: Client) -> None:
    reached = anyio.Event()

    class Stuck(Recorder):
        async def monitor(self, task: Task) -> None:
            reached.set()
            await anyio.sleep_forever()

    runtime = Runtime(client, monitor=Stuck("m", []))
    await client.new_container("a", spec=SPEC)
    async with anyio.create_task_group() as tg:
        tg.start_soon(runtime.create, "a")
        await reached.wait()
        tg.cancel_scope.cancel()
    assert await runtime.tasks() == []


async def test_delete_stops_the_monitor_first_but_not_of_what_runs(client: Client) -> None:
    book = list[str]()
    runtime = Runtime(client, monitor=Recorder("m", book))
    await client.new_container("a", spec=SPEC)
    task = await runtime.create("a")
    await task.start()
    with pytest.raises(FailedPrecondition, match="is running; kill it first"):
        await runtime.delete(task)
    assert book == ["m monitor a"]
    await task.kill(9)
    await task.client_process.wait(timeout=10)
    ended = await runtime.delete(task)
    assert book == ["m monitor a", "m stop a"]
    assert (ended.status, ended.pid) == (137, task.client_process.pid)
    assert ended.timestamp is not None


async def test_a_spec_of_the_options_is_put_into_the_record_and_taken_back(client: Client) -> None:
    container = await client.new_container("a", spec=SPEC)
    other: Any = {"ociVersion": "1", "process": {"args": ["other"], "cwd": "/", "user": {"uid": 0, "gid": 0}}}
    runtime = Runtime(client)
    task = await runtime.create("a", CreateOpts(spec=other))
    assert (await container.spec())["process"]["args"] == ["other"]
    with pytest.raises(ContainerExists, match="runtime: container with id already exists"):
        await runtime.create("a", CreateOpts(spec=SPEC))
    assert (await container.spec())["process"]["args"] == ["other"]
    assert b'"other"' in task.info.spec


async def test_tasks_of_other_runtimes_are_none_of_ours(client: Client) -> None:
    await client.new_container("a", spec=SPEC)
    await client.new_container("b", spec=SPEC, runtime="io.containerd.other.v1")
    runtime, other = Runtime(client), Runtime(client, "io.containerd.other.v1")
    task = await runtime.create("a")
    assert [each.id for each in await runtime.tasks()] == ["a"]
    with pytest.raises(InvalidArgument, match=r"is of the runtime 'io\.containerd\.other\.v1'"):
        await runtime.create("b")
    with pytest.raises(ContainerNotExist):
        await other.get("a")
    with pytest.raises(InvalidArgument, match="is not a task of the runtime"):
        await other.delete(task)
    with pytest.raises(InvalidArgument, match="the name of the runtime is empty"):
        Runtime(client, "")


@pytest.mark.shows("seed:runtime.TaskMonitor")
async def test_the_monitor_on_events_tells_of_its_own_tasks_and_of_every_exit(client: Client) -> None:
    told: list[tuple[str, str]] = []

    async def handler(task: Task, change: StateChange) -> None:
        await anyio.lowlevel.checkpoint()
        told.append((task.id, change.state))

    async with EventTaskMonitor(client, handler) as monitor:
        runtime = Runtime(client, monitor=monitor)
        for name in ("a", "b"):
            await client.new_container(name, spec=SPEC)
        task = await runtime.create("a")
        stranger = await Runtime(client).create("b")
        await stranger.start()
        await task.start()
        await task.pause()
        await task.resume()
        await task.kill(9)
        assert (await task.client_process.wait(timeout=10)).code == 137
        await runtime.delete(task)
        await monitor.drain()
        again = await runtime.create("a")
        await monitor.stop(again)
        await again.start()
        await again.kill(9)
        await again.client_process.wait(timeout=10)
        await client.barrier()
        await monitor.drain()
    assert told == [("a", state) for state in ("start-container", "pause", "resume", "exit")]


async def test_a_monitor_that_is_not_open(client: Client) -> None:
    async def handler(task: Task, change: StateChange) -> None: ...

    monitor = EventTaskMonitor(client, handler)
    with pytest.raises(Closed, match="not open"):
        await monitor.drain()
