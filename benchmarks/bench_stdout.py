"""A container that writes a gigabyte to its stdout: read through us, beside ctr.

python benchmarks/bench_stdout.py [megabytes] [rounds]

From the start of the task to the end of its output. The output goes to /dev/null, as a shell would send it there.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from _table import interleaved, table

from containerd_aio import Client, Daemon, stdio
from containerd_aio.testing.images import busybox_image

IMAGE = "docker.io/library/busybox:latest"


class Peers:
    """Every way, each with a container of its own."""

    def __init__(self, address: str, megabytes: int) -> None:
        self.address = address
        self.size = megabytes << 20
        self.command = ["dd", "if=/dev/zero", "bs=65536", f"count={megabytes << 4}", "status=none"]
        self._names = (f"bench{n}" for n in itertools.count())

    async def ours(self, io: stdio.IOCreator) -> float:
        async with Client(self.address) as client:
            async with await client.new_container(
                next(self._names), image=IMAGE, args=self.command
            ) as container:
                async with await container.new_task(io=io) as task:
                    began = time.perf_counter()
                    await task.start()
                    if task.stdout is not None:
                        total = 0
                        async for chunk in task.stdout:
                            total += len(chunk)
                        assert total == self.size
                    assert (await task.wait()).code == 0
                    await task.delete()
                    return time.perf_counter() - began

    async def pipes(self) -> float:
        return await self.ours(stdio.pipes())

    async def files(self) -> float:
        return await self.ours(stdio.files(stdout="/dev/null"))

    async def ctr(self) -> float:
        argv = ["ctr", "-a", self.address, "run", "--rm", IMAGE, next(self._names), *self.command]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0
        return time.perf_counter() - began


def measure(peers: Peers, work: Callable[[], Awaitable[float]]) -> dict[str, float]:
    """Return megabytes per second, and our CPU seconds, children included."""

    def cpu() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    before = cpu()
    seconds = asyncio.run(work())  # type: ignore[arg-type]
    return {"rate": peers.size / 1e6 / seconds, "cpu": cpu() - before}


async def main() -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        archive = busybox_image(Path(folder) / "busybox.tar", name=IMAGE)
        async with Daemon() as daemon:
            async with Client(daemon.address) as client:
                await client.import_archive(archive, unpack=True)
            peers = Peers(daemon.address, megabytes)
            cases = {
                "containerd-aio, stdio.files": peers.files,
                "containerd-aio, stdio.pipes": peers.pipes,
                "ctr run (its start-up included)": peers.ctr,
            }
            results = await asyncio.to_thread(
                interleaved, rounds, {n: lambda w=w: measure(peers, w) for n, w in cases.items()}
            )
    base = results["ctr run (its start-up included)"]["rate"]
    table(
        f"Output of a container: {megabytes} MiB through a FIFO, median of {rounds} rounds, {os.cpu_count()} CPUs",
        ["client", "MB/s", "x ctr", "CPU s"],
        [[n, f"{r['rate']:,.0f}", f"{r['rate'] / base:.2f}", f"{r['cpu']:.2f}"] for n, r in results.items()],
    )


if __name__ == "__main__":
    asyncio.run(main())
