"""Lag of events from a real daemon under many publishers: what is published, what arrives, how late, and at what cost there.

python benchmarks/bench_lag.py [publishers] [events each] [release ...]

The publishers are Go's client where it can be built, else ours in a process of their own. They share the machine with
the daemon and with the reader, and publish as fast as the daemon takes it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import structlog
from _go import build
from _table import protobuf_module, table
from anyio.streams.buffered import BufferedByteReceiveStream

from containerd_aio import Client, Daemon

TOPIC = "/bench/event"
IDLE = 5.0  # seconds without an event after which the missing ones are lost
TESTBED = Path(__file__).resolve().parent.parent / "scripts" / "testbed.py"


@dataclass
class Seen:
    """What a reader saw."""

    lags: list[float] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: -1))
    disorder: int = 0

    def take(self, container_id: str, arrived: int = 0) -> None:
        """Take an event, as it is read, or one that was read at `arrived`."""
        publisher, number, at = container_id.split("/")
        self.lags.append(((arrived or time.time_ns()) - int(at)) / 1e6)
        self.disorder += int(number) != self.numbers[publisher] + 1
        self.numbers[publisher] = int(number)


Reader = Callable[[str, Seen, int, asyncio.Event], Awaitable[None]]


async def ours(address: str, seen: Seen, count: int, live: asyncio.Event) -> None:
    """Read through `Client.events`."""
    async with (
        Client(address, namespace="bench") as client,
        client.events(f'topic=="{TOPIC}"', buffer=10_000) as events,
    ):
        live.set()
        async for event in events:
            seen.take(event.container_id)  # type: ignore[union-attr]
            if len(seen.lags) == count:
                return


async def plain(address: str, seen: Seen, count: int, live: asyncio.Event) -> None:
    """Read with grpclib and betterproto2's own stub and codec."""
    from grpclib.client import Channel

    from containerd_aio.api.containerd.events import TaskExit
    from containerd_aio.api.containerd.services.events.v1 import EventsStub, SubscribeRequest

    channel = Channel(path=address)
    try:
        request = SubscribeRequest(filters=[f'topic=="{TOPIC}"'])
        async with aclosing(_announced(EventsStub(channel).subscribe(request), live)) as stream:
            async for envelope in stream:
                seen.take(TaskExit.parse(envelope.event.value).container_id)
                if len(seen.lags) == count:
                    return
    finally:
        channel.close()


async def grpc_aio(address: str, seen: Seen, count: int, live: asyncio.Event) -> None:
    """Read with grpc.aio and protobuf's upb."""
    import grpc.aio

    classes = protobuf_module("containerd/services/events/v1/events.proto", "containerd/events/task.proto")
    request = classes("containerd.services.events.v1.SubscribeRequest")(filters=[f'topic=="{TOPIC}"'])
    envelope_class, event_class = (
        classes("containerd.types.Envelope"),
        classes("containerd.events.TaskExit"),
    )
    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        method = "/containerd.services.events.v1.Events/Subscribe"
        call = channel.unary_stream(method, lambda m: m.SerializeToString(), envelope_class.FromString)(
            request
        )
        async with aclosing(_announced(call, live)) as stream:
            async for envelope in stream:
                seen.take(event_class.FromString(envelope.event.value).container_id)
                if len(seen.lags) == count:
                    break
        call.cancel()


async def go_client(binary: Path, address: str, seen: Seen, count: int, live: asyncio.Event) -> None:
    """Read with containerd's own client, in a process of its own."""
    async with await anyio.open_process([str(binary), address, str(count)], stderr=sys.stderr) as process:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        await lines.receive_until(b"\n", 100)
        live.set()
        with suppress(anyio.IncompleteRead):
            while True:
                container_id, at = (await lines.receive_until(b"\n", 1000)).split()
                seen.take(container_id.decode(), int(at))


async def _announced(stream: Any, live: asyncio.Event) -> AsyncIterator[Any]:
    """Say that a stream is read; containerd never says that it has begun, so this is a guess that is waited for."""
    iterator = aiter(stream)
    first = asyncio.ensure_future(anext(iterator))  # noqa: TID251 - the request is sent by the first read
    await asyncio.sleep(0.5)
    live.set()
    yield await first
    async for item in iterator:
        yield item


def resident(pid: int, what: str = "VmRSS") -> float:
    """Return the resident memory of a process in MB: now, or ``VmHWM`` for the most it ever was."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) / 1024


async def publish(go: Path | None, address: str, publishers: int, each: int) -> float:
    """Have events published; return how many a second."""
    command = [str(go)] if go else [sys.executable, __file__, "publish"]
    done = await anyio.run_process([*command, address, str(publishers), str(each)], stderr=sys.stderr)
    return float(done.stdout)


async def publish_here(address: str, publishers: int, each: int) -> None:
    """Publish from connections of ours, and print how many a second."""
    from containerd_aio.api.containerd.events import TaskExit
    from containerd_aio.api.google.protobuf import Timestamp

    began = time.perf_counter()

    async def one(publisher: int) -> None:
        async with Client(address, namespace="bench") as client:
            for n in range(each):
                name, exited_at = f"{publisher}/{n}/{time.time_ns()}", Timestamp(seconds=int(time.time()))
                payload = TaskExit(container_id=name, id=name, pid=4711, exit_status=137, exited_at=exited_at)
                await client.publish(TOPIC, payload)

    async with anyio.create_task_group() as group:
        for publisher in range(publishers):
            group.start_soon(one, publisher)
    print(publishers * each / (time.perf_counter() - began))


@asynccontextmanager
async def daemon_of(binary: str) -> AsyncIterator[Daemon]:
    """Run a daemon for one measurement, so that its memory is that of this one alone."""
    with tempfile.TemporaryDirectory(prefix="containerd-aio-bench-") as folder:
        async with Daemon(f"{folder}/root", f"{folder}/state", binary=binary, log_level="fatal") as daemon:
            yield daemon


async def measure(go: Path | None, binary: str, reader: Reader, publishers: int, each: int) -> list[str]:
    """Publish and read at the same time; return the figures."""
    seen, live, count = Seen(), asyncio.Event(), publishers * each
    async with daemon_of(binary) as daemon:
        before, rate = resident(daemon.pid), 0.0
        async with anyio.create_task_group() as group:
            group.start_soon(reader, daemon.address, seen, count, live)
            await live.wait()
            rate = await publish(go, daemon.address, publishers, each)
            have = -1
            while have < len(seen.lags) < count:
                have = len(seen.lags)
                await anyio.sleep(IDLE)
            if len(seen.lags) < count:
                group.cancel_scope.cancel()
        highest = resident(daemon.pid, "VmHWM")
    lags = sorted(seen.lags)
    p50, p99 = lags[len(lags) // 2], lags[int(len(lags) * 0.99)]
    figures = [f"{value:.1f}" for value in (p50, p99, lags[-1])]
    return [
        f"{rate:,.0f}",
        *figures,
        f"{count - len(lags)}",
        f"{seen.disorder}",
        f"{before:.0f}",
        f"{highest:.0f}",
    ]


def containerds() -> dict[str, str]:
    """Return the containerd of each release of the test bed."""
    done = subprocess.run([sys.executable, TESTBED, "list"], capture_output=True, text=True, check=True)
    listing: dict[str, dict[str, str]] = json.loads(done.stdout)
    return {release: found["containerd"] for release, found in listing.items()}


async def main(publishers: int, each: int, releases: list[str]) -> None:
    """Print a table for each release."""
    found = containerds()
    readers: dict[str, Reader] = {
        "containerd-aio": ours,
        "grpc.aio + protobuf (upb)": grpc_aio,
        "grpclib + betterproto2": plain,
    }
    with tempfile.TemporaryDirectory() as folder:
        go = await anyio.to_thread.run_sync(build, "publish", Path(folder))
        if go is not None and (lag := await anyio.to_thread.run_sync(build, "lag", Path(folder))):
            readers["Go's client"] = partial(go_client, lag)
        for release in releases or sorted(found):
            rows = [
                [name, *await measure(go, found[release], reader, publishers, each)]
                for name, reader in readers.items()
            ]
            table(
                f"containerd {release}: {publishers} publishers, {publishers * each:,} events",
                [
                    "reader",
                    "published/s",
                    "p50 ms",
                    "p99 ms",
                    "max ms",
                    "lost",
                    "disorder",
                    "RSS MB",
                    "at most",
                ],
                rows,
            )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if sys.argv[1:2] == ["publish"]:
        asyncio.run(publish_here(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        given = [int(arg) for arg in sys.argv[1:3]]
        asyncio.run(main(*(given + [16, 2500][len(given) :]), sys.argv[3:]))
