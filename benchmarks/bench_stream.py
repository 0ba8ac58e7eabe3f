"""The event stream: events per second and CPU per event, beside grpcio, plain grpclib with betterproto2, and Go's client.

python benchmarks/bench_stream.py [events] [rounds]
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from _go import build
from _table import interleaved, protobuf_module, table

if TYPE_CHECKING:
    from containerd_aio._transport.channel import Channel
    from containerd_aio.events.hub import EventHub

SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
FILES = (
    "containerd/services/events/v1/events.proto",
    "containerd/events/task.proto",
    "containerd/events/snapshot.proto",
)
AIO = "grpc.aio + protobuf (upb), full decode"
GO = "Go's client, full decode"
Client = Callable[[str, int], Awaitable[None]]


def channel_to(path: str) -> Channel:
    """Return a connection of ours."""
    from containerd_aio._transport.channel import Channel
    from containerd_aio._transport.dial import Address

    return Channel(Address.parse(path), timeout=5, connect_timeout=5)


async def decoded(path: str, count: int) -> None:
    """Our stream and our decoder: what one reads who needs no more than events, as the peers below do."""
    from containerd_aio.events.decode import decode_envelope
    from containerd_aio.events.stream import subscribe

    async with channel_to(path) as channel, subscribe(channel) as stream:
        while count > 0:
            for data in await stream.recv_encoded():
                assert decode_envelope(data).event.topic
                count -= 1


def new_hub() -> EventHub:
    """Return the core of a client, fed by hand: the replay answers no calls."""
    from containerd_aio._transport.connections import Connections
    from containerd_aio._transport.dial import Address
    from containerd_aio.events.hub import EventHub

    return EventHub(Connections(Address.parse("/run/none.sock"), timeout=5, connect_timeout=5))


async def feed(path: str, hub: EventHub, count: int) -> None:
    """Feed a hub from the replay, as it feeds itself."""
    from containerd_aio.events.stream import subscribe

    async with channel_to(path) as channel, subscribe(channel) as stream:
        while count > 0:
            batch = await stream.recv_encoded()
            for data in batch:
                hub._take(data)
            count -= len(batch)
            await anyio.lowlevel.checkpoint()


async def subscribed(path: str, count: int) -> None:
    """Everything that a client does: the registry, and a subscriber that reads each event."""
    from containerd_aio.events.subscription import Subscription

    hub = new_hub()
    events = Subscription(hub, (), namespace=None, buffer=count * 2)
    hub.attach(events)

    async def read() -> None:
        for _ in range(count):
            assert (await anext(events)).topic  # type: ignore[union-attr]

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await feed(path, hub, count)


async def filtered(path: str, count: int) -> None:
    """A subscriber that wants one topic of one namespace, and gets none of these."""
    from containerd_aio.events.subscription import Subscription

    hub = new_hub()
    events = Subscription(hub, ['topic=="/tasks/exit",namespace==other'], namespace="other", buffer=1024)
    hub.attach(events)
    await feed(path, hub, count)
    assert events.pending == 0


async def registry(path: str, count: int) -> None:
    """Nobody subscribed; the registry learns of every exit, in case somebody asks."""
    await feed(path, new_hub(), count)


async def plain(path: str, count: int) -> None:
    """grpclib with betterproto2's own stub and codec."""
    from grpclib.client import Channel

    from containerd_aio.api.containerd import events
    from containerd_aio.api.containerd.services.events.v1 import EventsStub, SubscribeRequest

    channel = Channel(path=path)
    async for envelope in EventsStub(channel).subscribe(SubscribeRequest()):
        assert envelope.event is not None
        assert getattr(events, envelope.event.type_url.rpartition(".")[2]).parse(envelope.event.value)
        count -= 1
        if not count:
            break
    channel.close()


@cache
def upb() -> tuple[Any, dict[str, Any]]:
    """Return protobuf's classes: of the envelope, and of payloads by type."""
    classes = protobuf_module(*FILES)
    names = ("containerd.events.TaskExit", "containerd.events.SnapshotPrepare")
    return classes("containerd.types.Envelope"), {name: classes(name) for name in names}


async def grpc_aio(path: str, count: int) -> None:
    """grpc.aio (C core) with protobuf's upb."""
    import grpc.aio

    envelope_class, payloads = upb()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_stream(SUBSCRIBE, lambda m: m, envelope_class.FromString)(b"")
        async for envelope in call:
            assert payloads[envelope.event.type_url].FromString(envelope.event.value)
            count -= 1
            if not count:
                break
        call.cancel()


async def grpc_sync(path: str, count: int) -> None:
    """Synchronous grpcio with protobuf's upb, on a thread that does nothing else."""
    import grpc

    envelope_class, payloads = upb()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_stream(SUBSCRIBE, lambda m: m, envelope_class.FromString)(b"")
        for envelope in call:
            assert payloads[envelope.event.type_url].FromString(envelope.event.value)
            count -= 1
            if not count:
                break
        call.cancel()


def measure(path: str, count: int, client: Client) -> dict[str, float]:
    """Read `count` events; return events per second and CPU microseconds per event."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    asyncio.run(client(path, count))  # type: ignore[arg-type]
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rate": count / wall, "cpu": cpu / count * 1e6}


def measure_go(binary: Path, path: str, count: int) -> dict[str, float]:
    """Have Go's client read `count` events."""
    done = subprocess.run([binary, path, str(count)], capture_output=True, text=True, check=True)
    rate, cpu = map(float, done.stdout.split())
    return {"rate": rate, "cpu": cpu}


@contextmanager
def replay(folder: Path, count: int, kind: str) -> Iterator[str]:
    """Serve events of a kind."""
    path = str(folder / f"{kind}.sock")
    command = [sys.executable, str(Path(__file__).parent / "_replay.py"), path, str(count * 2), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield path
        finally:
            server.kill()


def main(count: int = 50_000, rounds: int = 5) -> None:
    """Print the tables."""
    upb()  # compiled before anything is measured
    with tempfile.TemporaryDirectory() as folder:
        go = build("events", Path(folder))
        with replay(Path(folder), count, "exit") as path:
            cases: dict[str, tuple[Client, int]] = {
                "containerd-aio, full decode": (decoded, count),
                "containerd-aio, registry and a subscriber": (subscribed, count),
                "containerd-aio, registry only": (registry, count),
                "grpclib + betterproto2, full decode": (plain, count // 5),
                AIO: (grpc_aio, count // 5),
                "grpcio (sync) + protobuf (upb), full decode": (grpc_sync, count // 5),
            }
            show("TaskExit events", path, cases, go, count, rounds)
        with replay(Path(folder), count, "snapshot") as path:
            cases = {
                "containerd-aio, filtered by topic and namespace": (filtered, count),
                "containerd-aio, full decode": (decoded, count),
                AIO: (grpc_aio, count // 5),
            }
            show("SnapshotPrepare events", path, cases, go, count, rounds)


def show(
    what: str, path: str, cases: dict[str, tuple[Client, int]], go: Path | None, count: int, rounds: int
) -> None:
    """Run the cases in turn and print their table."""

    def runs(client: Client, n: int) -> Callable[[], dict[str, float]]:
        return lambda: measure(path, n, client)

    chosen = {name: runs(*case) for name, case in cases.items()}
    if go is not None:
        chosen[GO] = lambda: measure_go(go, path, count * 2)
    results = interleaved(rounds, chosen)
    rows = []
    for name, r in results.items():
        ratios = [f"{r['rate'] / results[p]['rate']:.2f}x" if p in results else "-" for p in (AIO, GO)]
        cheaper = f"{results[AIO]['cpu'] / r['cpu']:.1f}x"
        rows.append([name, f"{r['rate']:,.0f}", f"{r['cpu']:.1f}", *ratios, cheaper])
    table(
        f"{count:,} {what} of some 220 bytes over a unix socket, median of {rounds} rounds",
        ["client", "events/s", "CPU us/event", "vs grpc.aio", "vs Go", "less CPU than grpc.aio"],
        rows,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
