"""`Client.state_changes`: what a handler is told of the containers of a daemon, and what it can't do to others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from containerd_aio import (
    Client,
    ConnectError,
    Container,
    DeliveryFailure,
    InvalidArgument,
    Retry,
    StateChange,
    Task,
)
from containerd_aio.testing.fake import FakeContainerd, Fate
from containerd_aio.testing.fake.fates import RUNS_FOR_EVER
from tests.unit.test_states import check_order

Failures = list[DeliveryFailure[Any, StateChange]]
SPEC: Any = {"process": {"args": ["job"], "cwd": "/"}}


class Book:
    """A handler that writes everything down."""

    def __init__(self) -> None:
        self.changes: list[StateChange] = []
        self._news = anyio.Event()

    async def __call__(self, change: StateChange) -> None:
        self.changes.append(change)
        self._news.set()

    def of(self, container_id: str) -> list[str]:
        return [c.state for c in self.changes if c.container_id == container_id]

    async def until(self, container_id: str, state: str) -> StateChange:
        with anyio.fail_after(10):
            while True:
                for change in self.changes:
                    if (change.container_id, change.state) == (container_id, state):
                        return change
                self._news = anyio.Event()
                await self._news.wait()


@pytest.fixture
async def fake() -> AsyncIterator[FakeContainerd]:
    async with FakeContainerd(default=RUNS_FOR_EVER) as running:
        yield running


@pytest.fixture
async def client(fake: FakeContainerd) -> AsyncIterator[Client]:
    async with Client(fake.address, namespace="ns") as opened:
        yield opened


async def create(client: Client, name: str) -> tuple[Container, Task]:
    container = await client.new_container(name, spec=SPEC)
    return container, await container.new_task()


@asynccontextmanager
async def running(client: Client, *names: str) -> AsyncIterator[list[Task]]:
    tasks = []
    for name in names:
        _, task = await create(client, name)
        await task.start()
        tasks.append(task)
    yield tasks


# -- what is told ------------------------------------------------------------------------------------------------------


async def test_E24_a_life_with_everything_in_it(fake: FakeContainerd, client: Client) -> None:
    book = Book()
    async with client.state_changes(book) as changes, running(client, "c") as (task,):
        await task.pause()
        await task.resume()
        exec_ = await task.exec("e", ["helper"])
        await exec_.start()
        fake.oom("c")
        fake.exit("c", 4, exec_id="e")
        fake.exit("c", 3)
        await task.wait()
        await task.delete()
        await changes.drain()
        assert (changes.pending, changes.delivered, changes.failed, changes.dropped) == (0, 7, 0, 0)
    assert book.of("c") == [
        "start-container",
        "pause",
        "resume",
        "start-process",
        "oom",
        "exit-process",
        "exit",
    ]
    exec_exit, exit_ = book.changes[-2:]
    assert exec_exit.exit_status == exec_.exit_status
    assert exit_.exit_status == task.exit_status
    assert exit_.oom_killed
    assert {c.incarnation for c in book.changes} == {exit_.incarnation}
    check_order(book.changes)


async def test_containers_of_other_clients_are_told_too(fake: FakeContainerd, client: Client) -> None:
    book = Book()
    async with (
        client.state_changes(book),
        Client(fake.address, namespace="ns") as other,
        running(other, "c") as (task,),
    ):
        exec_ = await task.exec("e", ["helper"])
        await exec_.start()
        fake.exit("c", 4, exec_id="e")
        await exec_.wait()
        fake.exit("c", 137)
        change = await book.until("c", "exit")
    assert book.of("c") == ["start-container", "start-process", "exit-process", "exit"]
    assert change.exit_status is not None
    assert change.exit_status.oom_known  # asked for, though nobody here holds a handle


async def test_containers_that_run_already_are_restored(fake: FakeContainerd, client: Client) -> None:
    async with Client(fake.address, namespace="ns") as other:
        async with running(other, "runs", "rests") as (_, rests):
            await rests.pause()
            await create(other, "waits")
            book = Book()
            async with client.state_changes(book):
                await book.until("rests", "pause")
                await book.until("runs", "restore")
                fake.exit("runs", 3)
                await book.until("runs", "exit")
                assert book.of("waits") == []
    assert book.of("runs") == ["restore", "exit"]
    assert book.of("rests") == ["restore", "pause"]


async def test_E04_other_namespaces_are_told_only_when_asked_for(
    fake: FakeContainerd, client: Client
) -> None:
    mine, everything = Book(), Book()
    other = client.namespaced("other")
    async with client.state_changes(mine), client.state_changes(everything, all_namespaces=True):
        async with running(other, "c"), running(client, "c"):
            await mine.until("c", "start-container")
            await everything.until("c", "start-container")
            for namespace in ("other", "ns"):
                fake.exit("c", namespace=namespace)
            await mine.until("c", "exit")
            with anyio.fail_after(5):
                while sum(c.state == "exit" for c in everything.changes) < 2:
                    await client.version()
    assert {c.namespace for c in mine.changes} == {"ns"}
    assert mine.of("c") == ["start-container", "exit"]
    for namespace in ("ns", "other"):
        states = [c.state for c in everything.changes if c.namespace == namespace]
        assert states == ["start-container", "exit"]


async def test_E32_what_happened_while_the_connection_was_away_is_told(
    fake: FakeContainerd, client: Client
) -> None:
    book = Book()
    async with client.state_changes(book), running(client, "dies", "lives"):
        swallowed = fake.swallow_events('topic~="^/tasks/"')
        fake.exit("dies", 3)
        async with Client(fake.address, namespace="ns") as other, running(other, "comes"):
            swallowed.remove()
            await fake.drop_connections()
            change = await book.until("dies", "exit")
            await book.until("comes", "start-container")
    assert change.exit_status is not None
    assert change.exit_status.code == 3
    assert book.of("lives") == ["start-container"]


async def test_E33_S45_a_pause_returns_and_is_told_though_its_event_is_lost(
    fake: FakeContainerd, client: Client
) -> None:
    book = Book()
    async with client.state_changes(book), running(client, "c") as (task,):
        with fake.swallow_events('topic=="/tasks/paused"', 'topic=="/tasks/resumed"'):
            with anyio.fail_after(5):
                await task.pause()
                await book.until("c", "pause")
                await task.resume()
                await book.until("c", "resume")


async def test_E33_a_pause_in_the_middle_of_which_the_container_ends_returns(
    fake: FakeContainerd, client: Client
) -> None:
    book = Book()
    async with client.state_changes(book), running(client, "c") as (task,):
        with fake.swallow_events('topic=="/tasks/paused"'):
            fake.fail("Tasks/Get", "UNAVAILABLE", "later", times=None)
            with anyio.fail_after(5):
                await task.pause()
            fake.clear_faults()
        fake.kill_shim("c")
        with anyio.fail_after(5):
            await task.wait()


# -- what a handler can't do to others ---------------------------------------------------------------------------------


def stuck_on(*names: str, book: Book) -> Callable[[StateChange], Awaitable[None]]:
    async def handler(change: StateChange) -> None:
        if change.container_id in names:
            await anyio.sleep_forever()
        await book(change)

    return handler


async def test_E25_E27_S34_a_handler_that_never_returns_delays_neither_waits_nor_other_containers(
    fake: FakeContainerd, client: Client
) -> None:
    book = Book()
    async with (
        client.state_changes(stuck_on("stuck", book=book)) as changes,
        client.events() as events,
        running(client, "stuck", "fine") as tasks,
    ):
        for task in tasks:
            fake.exit(task.id, 5)
        with anyio.fail_after(5):
            assert [(await task.wait()).code for task in tasks] == [5, 5]
            await book.until("fine", "exit")
            await changes.drain("fine")
            await client.barrier()
        assert book.of("stuck") == []
        assert changes.pending == 2
        assert events.dropped == 0


async def test_E27_a_wait_resolves_while_the_handler_is_told_of_its_start(
    fake: FakeContainerd, client: Client
) -> None:
    """Even when the handler itself waits for the container it is told of."""
    done = anyio.Event()
    tasks: dict[str, Task] = {}

    async def handler(change: StateChange) -> None:
        if change.state == "start-container":
            assert (await tasks[change.container_id].wait()).code == 7
            done.set()

    async with client.state_changes(handler):
        _, tasks["c"] = await create(client, "c")
        await tasks["c"].start()
        fake.exit("c", 7)
        with anyio.fail_after(5):
            await done.wait()


async def test_E25_with_a_timeout_the_next_change_follows(fake: FakeContainerd, client: Client) -> None:
    failures: Failures = []
    book = Book()

    async def handler(change: StateChange) -> None:
        if change.state == "start-container":
            await anyio.sleep_forever()
        await book(change)

    async with client.state_changes(handler, timeout=0.01, on_error=failures.append):
        async with running(client, "c"):
            fake.exit("c", 0)
            await book.until("c", "exit")
    (failure,) = failures
    assert failure.key == ("ns", "c")
    assert failure.item.state == "start-container"
    assert isinstance(failure.error, TimeoutError)


async def test_E26_S35_retries_keep_the_order_of_a_container(fake: FakeContainerd, client: Client) -> None:
    book, tries = Book(), defaultdict[str, int](int)

    async def handler(change: StateChange) -> None:
        tries[change.state] += 1
        if tries[change.state] < 3:
            raise RuntimeError("the database is away")
        await book(change)

    retry = Retry(initial=0.001, maximum=0.002)
    async with client.state_changes(handler, retry=retry, on_error=lambda _: None) as changes:
        async with running(client, "c") as (task,):
            fake.exit("c", 0)
            await task.wait()
            await changes.drain()
    assert book.of("c") == ["start-container", "exit"]
    assert tries == {"start-container": 3, "exit": 3}


async def test_200_containers_at_once_each_in_order(fake: FakeContainerd, client: Client) -> None:
    fake.program("job", Fate(exit_code=0))
    book = Book()
    limit = anyio.CapacityLimiter(20)

    async def one(n: int) -> None:
        async with limit:
            _, task = await create(client, f"c{n}")
            await task.start()
            await task.wait()

    async with client.state_changes(book) as changes:
        async with anyio.create_task_group() as group:
            for n in range(200):
                group.start_soon(one, n)
        await client.barrier()
        await changes.drain()
        assert changes.delivered == 400
    check_order(book.changes)
    assert len({c.container_id for c in book.changes}) == 200
    assert len(changes._reporter) == 0


# -- life --------------------------------------------------------------------------------------------------------------


async def test_leaving_cancels_a_stuck_handler_and_nothing_is_told_any_more(
    fake: FakeContainerd, client: Client
) -> None:
    book, cancelled = Book(), anyio.Event()

    async def handler(change: StateChange) -> None:
        await book(change)
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with running(client, "c"):
        tasks = len(asyncio.all_tasks())
        async with client.state_changes(handler) as changes:
            await book.until("c", "restore")
        assert cancelled.is_set()
        assert len(asyncio.all_tasks()) <= tasks + 1  # the hub, which the first use started
        fake.exit("c", 0)
        await client.barrier()
        assert changes.pending == 0
        assert book.of("c") == ["restore"]
        hub = client._scope.core.hub
        assert hub._observers == ()
        assert not hub.registry.followed("ns")


async def test_an_exception_of_the_body_comes_out_as_it_is(client: Client) -> None:
    async def handler(change: StateChange) -> None: ...

    with pytest.raises(KeyError):
        async with client.state_changes(handler):
            raise KeyError


async def test_without_a_daemon_entering_fails_and_leaves_nothing(tmp_path: Any) -> None:
    async def handler(change: StateChange) -> None: ...

    tasks = len(asyncio.all_tasks())
    async with Client(str(tmp_path / "none.sock"), lazy=True) as client:
        with pytest.raises(ConnectError):
            async with client.state_changes(handler):
                raise AssertionError
    assert len(asyncio.all_tasks()) == tasks


async def test_options_that_make_no_sense_are_refused(client: Client) -> None:
    async def handler(change: StateChange) -> None: ...

    with pytest.raises(InvalidArgument, match="timeout"):
        client.state_changes(handler, timeout=0)
    with pytest.raises(InvalidArgument, match="buffer"):
        client.state_changes(handler, buffer=0)
