"""Many waits, exits and deaths: what they leave behind is nothing, or bounded (`benchmarks/bench_waits.py` has figures)."""

from __future__ import annotations

import asyncio
import gc

import anyio

from containerd_aio import Client, ExitStatus, Task
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd import events as wire
from containerd_aio.events.hub import EventHub
from containerd_aio.events.model import Event, TaskCreate, TaskExit, TaskStart
from containerd_aio.events.records import Incarnation, ProcessRecord
from containerd_aio.events.registry import Registry
from containerd_aio.testing import FakeContainerd, Fate
from tests.unit.fake_support import SPEC

REMEMBERED = 1000
EVENTS = "containerd.services.events.v1.Events"


def life(n: int) -> list[Event]:
    """Return the events of a container that nobody here holds a handle on."""
    name, pid = f"c{n}", 1000 + n
    return [
        TaskCreate(name, pid=pid, topic="/tasks/create", namespace="n"),
        TaskStart(name, pid, topic="/tasks/start", namespace="n"),
        TaskExit(name, name, pid, 3, 1, topic="/tasks/exit", namespace="n"),
    ]


def remembered() -> int:
    gc.collect()
    return sum(isinstance(thing, Incarnation) for thing in gc.get_objects())


def test_E13_exits_of_everybody_are_remembered_up_to_a_number() -> None:
    registry = Registry(remember=REMEMBERED)
    before = remembered()
    for n in range(REMEMBERED * 5):
        for event in life(n):
            registry.event(event, float(n))
    assert remembered() - before == REMEMBERED
    assert not registry.open_incarnations()
    assert registry.next_deadline() is None
    assert registry.incarnations("n", "c0") == []
    last = registry.incarnations("n", f"c{REMEMBERED * 5 - 1}")
    assert [i.init.accepted.code for i in last if i.init.accepted] == [3]


async def test_E14_10_000_waits_that_are_cancelled_leave_no_task_and_no_record() -> None:
    hub = EventHub(Connections(Address.parse("/run/none.sock"), timeout=5, connect_timeout=5))
    now, before = asyncio.get_running_loop().time(), len(asyncio.all_tasks())
    processes: list[ProcessRecord] = []
    for n in range(10_000):
        as_of = hub.registry.moment
        incarnation, effects = hub.registry.created("n", f"c{n}", 1000 + n, as_of=as_of, now=now)
        hub.tell(effects)
        processes.append(incarnation.init)
    async with anyio.create_task_group() as group:
        for process in processes:
            group.start_soon(hub.wait, process)
        await anyio.wait_all_tasks_blocked()
        assert len(hub._waiters) == 10_000
        group.cancel_scope.cancel()
    assert hub._waiters == {}
    assert len(asyncio.all_tasks()) == before


async def test_E10_E27_200_containers_that_die_at_once_are_all_told_of_with_their_own_codes() -> None:
    statuses: dict[str, ExitStatus] = {}

    async def wait(task: Task) -> None:
        statuses[task.id] = await task.wait()

    async with FakeContainerd(default=Fate(exit_code=None)) as fake, Client(fake.address) as client:
        async with anyio.create_task_group() as group:
            for n in range(200):
                task = await (await client.new_container(f"c{n}", spec=SPEC)).new_task()
                await task.start()
                group.start_soon(wait, task)
            await client.barrier()
            calls = len(fake.calls)
            for n in range(200):
                fake.exit(f"c{n}", n % 100)
            await client.barrier()
        assert {name: s.code for name, s in statuses.items()} == {f"c{n}": n % 100 for n in range(200)}
        assert {status.source for status in statuses.values()} == {"event"}
        assert {call.method for call in fake.calls[calls:]} == {f"/{EVENTS}/Publish"}  # nobody was asked


def test_what_is_fed_here_is_what_containerd_sends() -> None:
    assert [event.message_name for event in life(0)] == [
        f"containerd.events.{cls.__name__}" for cls in (wire.TaskCreate, wire.TaskStart, wire.TaskExit)
    ]
