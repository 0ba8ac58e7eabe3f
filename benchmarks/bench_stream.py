"""The event stream: events per second and CPU per event, beside grpcio and beside grpclib with betterproto2 alone.

python benchmarks/bench_stream.py [events] [rounds]
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from _table import interleaved, protobuf_module, table

SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
FILES = ("containerd/services/events/v1/events.proto", "containerd/events/task.proto")


async def ours(path: str, count: int, *, payload: bool) -> None:
    """What the hub does: batches of raw envelopes, decoded; the payload only when somebody looks."""
    from containerd_aio._transport.channel import Channel
    from containerd_aio._transport.dial import Address
    from containerd_aio.events.decode import decode_envelope
    from containerd_aio.events.stream import subscribe

    async with (
        Channel(Address.parse(path), timeout=5, connect_timeout=5) as channel,
        subscribe(channel) as stream,
    ):
        while count > 0:
            for data in await stream.recv_encoded():
                view = decode_envelope(data)
                if payload:
                    assert view.event.exit_status == 137  # type: ignore[attr-defined]
                count -= 1


async def plain(path: str, count: int) -> None:
    """grpclib with betterproto2's own stub and codec, Envelope and TaskExit decoded."""
    from grpclib.client import Channel

    from containerd_aio.api.containerd.events import TaskExit
    from containerd_aio.api.containerd.services.events.v1 import EventsStub, SubscribeRequest

    channel = Channel(path=path)
    async for envelope in EventsStub(channel).subscribe(SubscribeRequest()):
        assert envelope.event is not None
        assert TaskExit.parse(envelope.event.value).exit_status == 137
        count -= 1
        if not count:
            break
    channel.close()


async def grpcio(path: str, count: int) -> None:
    """grpc.aio (C core) with protobuf's upb, Envelope and TaskExit decoded."""
    import grpc.aio

    classes = protobuf_module(*FILES)
    envelope_class, exit_class = classes("containerd.types.Envelope"), classes("containerd.events.TaskExit")
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_stream(SUBSCRIBE, lambda m: m, envelope_class.FromString)(b"")
        async for envelope in call:
            assert exit_class.FromString(envelope.event.value).exit_status == 137
            count -= 1
            if not count:
                break
        call.cancel()


def measure(path: str, count: int, client: Callable[[str, int], Awaitable[None]]) -> dict[str, float]:
    """Read `count` events; return events per second and CPU microseconds per event."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    asyncio.run(client(path, count))  # type: ignore[arg-type]
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rate": count / wall, "cpu": cpu / count * 1e6}


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "replay.sock")
        command = [sys.executable, str(Path(__file__).parent / "_replay.py"), path, str(count * 2)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            try:
                cases = {
                    "containerd-aio, payload decoded": lambda: measure(
                        path, count, lambda p, n: ours(p, n, payload=True)
                    ),
                    "containerd-aio, envelope only": lambda: measure(
                        path, count, lambda p, n: ours(p, n, payload=False)
                    ),
                    "grpclib + betterproto2, as generated": lambda: measure(path, count // 5, plain),
                    "grpc.aio + protobuf (upb)": lambda: measure(path, count // 5, grpcio),
                }
                results = interleaved(rounds, cases)
            finally:
                server.kill()
    peer = results["grpc.aio + protobuf (upb)"]["rate"]
    rows = [
        [n, f"{r['rate']:,.0f}", f"{r['cpu']:.1f}", f"{r['rate'] / peer:.1f}x"] for n, r in results.items()
    ]
    table(
        f"Event stream: {count:,} TaskExit events of 220 bytes over a unix socket, median of {rounds} rounds",
        ["client", "events/s", "CPU us/event", "vs grpc.aio"],
        rows,
    )


if __name__ == "__main__":
    main()
