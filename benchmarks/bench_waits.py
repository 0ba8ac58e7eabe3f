"""Waits at scale: memory per open wait and per remembered exit, cancelling 10 000 at once, 1 000 deaths in a second.

python benchmarks/bench_waits.py [waits] [exits] [deaths]

There is no peer: no Python client keeps waits of its own, and Go's keeps an RPC open for each.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from _table import table

from containerd_aio import Client, Task
from containerd_aio._transport.codec import encode
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Any, Timestamp
from containerd_aio.events.hub import EventHub
from containerd_aio.events.records import ProcessRecord
from containerd_aio.testing.fake import FakeContainerd, Fate

AT = Timestamp(seconds=1_795_370_661, nanos=123_456_789)
ID_SIZE = 64
#: Seconds from an event to the wait that it ends.
LIMIT = 0.1


def name(n: int) -> str:
    """Return a container id as long as those of orchestrators."""
    return f"{n:0{ID_SIZE}x}"


def envelope(topic: str, event: object) -> bytes:
    """Return an event as it comes from the socket."""
    kind = f"containerd.events.{type(event).__name__}"
    payload = Any(type_url=kind, value=encode(event))  # type: ignore[arg-type]
    return encode(Envelope(timestamp=AT, namespace="default", topic=topic, event=payload))


def created(n: int) -> bytes:
    return envelope("/tasks/create", wire.TaskCreate(container_id=name(n), pid=1000 + n))


def started(n: int) -> bytes:
    return envelope("/tasks/start", wire.TaskStart(container_id=name(n), pid=1000 + n))


def exited(n: int) -> bytes:
    event = wire.TaskExit(container_id=name(n), id=name(n), pid=1000 + n, exit_status=3, exited_at=AT)
    return envelope("/tasks/exit", event)


def new_hub() -> EventHub:
    """Return a hub that is fed by hand."""
    return EventHub(Connections(Address.parse("/run/none.sock"), timeout=5, connect_timeout=5))


def hold(hub: EventHub, n: int) -> ProcessRecord:
    """Take a handle on a task, as the reply to its creation does, and return its init process."""
    now = asyncio.get_running_loop().time()
    as_of = hub.registry.moment
    incarnation, effects = hub.registry.created("default", name(n), 1000 + n, as_of=as_of, now=now)
    hub.tell(effects)
    hub._take(created(n))
    hub._take(started(n))
    return incarnation.init


@contextmanager
def memory() -> Iterator[list[int]]:
    """Yield a list that gets the bytes that were allocated in the block and are still there."""
    gc.collect()
    tracemalloc.start()
    grown: list[int] = []
    try:
        yield grown
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def milliseconds(latencies: list[float]) -> list[str]:
    """Return p50, p99, the greatest, and whether that is below 100."""
    ordered = sorted(latencies)
    p99 = ordered[int(len(ordered) * 0.99)]
    figures = [f"{1000 * value:.2f}" for value in (statistics.median(ordered), p99, ordered[-1])]
    return [*figures, "yes" if ordered[-1] < LIMIT else "NO"]


async def _wait_and_cancel(hub: EventHub, processes: list[ProcessRecord]) -> tuple[int, float]:
    """Open a wait for each process and cancel all at once; return the memory they took and the seconds it took."""
    async with anyio.create_task_group() as group:
        for process in processes:
            group.start_soon(hub.wait, process)
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        open_, began = tracemalloc.get_traced_memory()[0], time.perf_counter()
        group.cancel_scope.cancel()
    return open_, time.perf_counter() - began


async def _wait_for_one(hub: EventHub, process: ProcessRecord, count: int) -> float:
    """Open many waits for one process, let it die, and return the seconds until all have been told."""
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(hub.wait, process)
        await anyio.wait_all_tasks_blocked()
        began = time.perf_counter()
        hub._take(exited(0))
    return time.perf_counter() - began


async def open_waits(count: int) -> list[list[str]]:
    """Measure the memory of tasks that are known and of waits for them, and the cancelling of all waits at once."""
    hub = new_hub()
    with memory() as grown:
        processes = [hold(hub, n) for n in range(count)]
    known = grown[0]
    tasks_before = len(asyncio.all_tasks())
    _, took = await _wait_and_cancel(hub, processes)
    left = len(asyncio.all_tasks()) - tasks_before + len(hub._waiters)
    with memory() as grown:
        open_, _ = await _wait_and_cancel(hub, processes)
        # asyncio and anyio keep tables of tasks, whose size is that of the largest crowd there was.
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0])
        await _wait_and_cancel(hub, processes)
    one = await _wait_for_one(hub, processes[0], count)
    return [
        [f"a running task with a handle ({count:,})", f"{known / count:,.0f} bytes"],
        [f"an open wait, its asyncio task included ({count:,})", f"{open_ / count:,.0f} bytes"],
        [f"cancelling {count:,} waits at once", f"{1000 * took:,.0f} ms"],
        ["tasks and futures left behind by them", f"{left}"],
        [
            "memory left behind by them, beyond that of the first crowd",
            f"{max(0, grown[1] - grown[0]):,} bytes",
        ],
        [f"one exit resolves {count:,} waits for it", f"{1000 * one:,.0f} ms"],
    ]


async def remembered_exits(count: int) -> list[list[str]]:
    """Measure the memory of tasks that came and went, and what it does not exceed."""
    hub = new_hub()
    with memory() as grown:
        for n in range(count):
            for data in (created(n), started(n), exited(n)):
                hub._take(data)
        gc.collect()
        grown.append(tracemalloc.get_traced_memory()[0])
        for n in range(count, count + count // 10):
            for data in (created(n), started(n), exited(n)):
                hub._take(data)
    return [
        [f"a remembered exit ({count:,})", f"{grown[0] / count:,.0f} bytes"],
        [f"after {count + count // 10:,} exits, each of {count:,}", f"{grown[1] / count:,.0f} bytes"],
    ]


async def deaths_by_hand(count: int) -> list[str]:
    """Let tasks die within a second, fed to the hub; measure from the event to the waiter."""
    hub = new_hub()
    loop = asyncio.get_running_loop()
    died: dict[ProcessRecord, float] = {}
    latencies = []

    async def one(process: ProcessRecord) -> None:
        assert (await hub.wait(process)).code == 3
        latencies.append(loop.time() - died[process])

    async with anyio.create_task_group() as group:
        processes = [hold(hub, n) for n in range(count)]
        for process in processes:
            group.start_soon(one, process)
        await anyio.wait_all_tasks_blocked()
        began = loop.time()
        for n, process in enumerate(processes):
            data = exited(n)
            await anyio.sleep(max(0, began + n / count - loop.time()))
            died[process] = loop.time()
            hub._take(data)
    return milliseconds(latencies)


async def deaths_on_the_fake(count: int) -> list[str]:
    """The same through a client, over a socket, from a fake daemon that shares this process."""
    loop = asyncio.get_running_loop()
    died: dict[str, float] = {}
    latencies = []

    async def one(task: Task) -> None:
        assert (await task.wait()).code == 3
        latencies.append(loop.time() - died[task.id])

    async with (
        FakeContainerd(default=Fate(exit_code=None)) as fake,
        Client(fake.address) as client,
        anyio.create_task_group() as group,
    ):
        for n in range(count):
            spec = {"process": {"args": ["job"], "cwd": "/"}}
            container = await client.new_container(name(n), spec=spec)  # type: ignore[arg-type]
            task = await container.new_task()
            await task.start()
            group.start_soon(one, task)
        await client.barrier()
        began = loop.time()
        for n in range(count):
            await anyio.sleep(max(0, began + n / count - loop.time()))
            died[name(n)] = loop.time()
            fake.exit(name(n), 3)
    return milliseconds(latencies)


async def main() -> None:
    """Print the tables."""
    given = [int(arg) for arg in sys.argv[1:]]
    waits, exits, deaths = given + [10_000, 100_000, 1_000][len(given) :]
    table(
        f"Waits and exits (container ids of {ID_SIZE} characters)",
        ["what", "figure"],
        [*await open_waits(waits), *await remembered_exits(exits)],
    )
    table(
        f"{deaths:,} containers die within a second: from the event to the resolved wait, ms",
        ["through", "p50", "p99", "max", "all within 100 ms"],
        [
            ["the event hub", *await deaths_by_hand(deaths)],
            ["fake daemon, socket, client (one process)", *await deaths_on_the_fake(deaths)],
        ],
    )


if __name__ == "__main__":
    asyncio.run(main())
