"""Unary calls against a real containerd: latency one after the other, throughput of a thousand at once.

python benchmarks/bench_unary.py [calls] [rounds]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from _table import interleaved, protobuf_module, table

from containerd_aio import Daemon

VERSION = "/containerd.services.version.v1.Version/Version"
Call = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def ours(address: str) -> Any:
    from containerd_aio import Client

    async with Client(address) as client:
        yield client.services.version.version


@asynccontextmanager
async def plain(address: str) -> Any:
    """grpclib with betterproto2's own stub and codec."""
    from grpclib.client import Channel

    from containerd_aio.api.containerd.services.version.v1 import VersionStub

    channel = Channel(path=address)
    yield VersionStub(channel).version
    channel.close()


@asynccontextmanager
async def grpcio(address: str) -> Any:
    import grpc.aio

    reply = protobuf_module("containerd/services/version/v1/version.proto")(
        "containerd.services.version.v1.VersionResponse"
    )
    async with grpc.aio.insecure_channel(f"unix:{address}") as channel:
        method = channel.unary_unary(VERSION, lambda m: m, reply.FromString)
        yield lambda: method(b"")


async def measure(client: Any, address: str, calls: int) -> dict[str, float]:
    """Call one after the other, then a thousand at once."""
    async with client(address) as call:

        async def once() -> None:
            await call()

        await once()
        times = []
        cpu = time.process_time()
        for _ in range(calls):
            began = time.perf_counter()
            await call()
            times.append(time.perf_counter() - began)
        cpu = time.process_time() - cpu
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(once())
        burst = 1000 / (time.perf_counter() - began)
    return {
        "p50": statistics.median(times) * 1e6,
        "p99": statistics.quantiles(times, n=100)[98] * 1e6,
        "cpu": cpu / calls * 1e6,
        "burst": burst,
    }


async def main() -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    async with Daemon() as daemon:
        cases = {
            name: lambda client=client: asyncio.run(measure(client, daemon.address, calls))
            for name, client in {
                "containerd-aio": ours,
                "grpclib + betterproto2, as generated": plain,
                "grpc.aio + protobuf (upb)": grpcio,
            }.items()
        }
        results = await asyncio.to_thread(interleaved, rounds, cases)
        rows = [
            [n, f"{r['p50']:.0f}", f"{r['p99']:.0f}", f"{r['cpu']:.0f}", f"{r['burst']:,.0f}"]
            for n, r in results.items()
        ]
        table(
            f"Version on containerd {daemon.version}: {calls} calls in turn, then 1,000 at once; median of {rounds} rounds",
            ["client", "p50 us", "p99 us", "CPU us", "1,000 at once, calls/s"],
            rows,
        )


if __name__ == "__main__":
    asyncio.run(main())
