"""Reading and writing a large blob through a real containerd, beside grpc.aio and ctr.

python benchmarks/bench_content.py [megabytes] [rounds]

Writes end with an fsync of the daemon's: the disk has its share in them. The CPU seconds are the client's alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
from _table import interleaved, protobuf_module, table

from containerd_aio import Client, Daemon

READ, WRITE = (f"/containerd.services.content.v1.Content/{rpc}" for rpc in ("Read", "Write"))
CHUNK = 1 << 20
NAMESPACE = (("containerd-namespace", "default"),)


class Peers:
    """Every client, each reading and writing the same blob."""

    def __init__(self, address: str, path: Path) -> None:
        self.address, self.path = address, path
        self.size = path.stat().st_size
        self.renew()
        self.classes = protobuf_module("containerd/services/content/v1/content.proto")

    def renew(self) -> None:
        """Make it another blob: one that the daemon has seen is not written again."""
        with self.path.open("r+b") as file:
            file.write(os.urandom(32))
        with self.path.open("rb") as file:
            self.digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

    async def ours_write(self, labels: dict[str, str] | None = None) -> None:
        from containerd_aio.services.content import ContentStore

        async def chunks() -> Any:
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk

        async with Client(self.address) as client:
            await ContentStore(client.services).write(
                "bench", chunks(), size=self.size, expected=self.digest, labels=labels
            )

    async def ours_read(self) -> None:
        from containerd_aio.services.content import ContentStore

        async with Client(self.address) as client:
            total = 0
            async for chunk in ContentStore(client.services).read(self.digest):
                total += len(chunk)
        assert total == self.size

    async def grpcio_write(self) -> None:
        import grpc.aio

        request, reply = (
            self.classes(f"containerd.services.content.v1.WriteContent{n}") for n in ("Request", "Response")
        )

        async def requests() -> Any:
            offset = 0
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield request(
                        action=1,
                        ref="bench",
                        offset=offset,
                        data=chunk,
                        total=self.size,
                        expected=self.digest,
                    )
                    offset += len(chunk)
            yield request(action=2, ref="bench", offset=offset, total=self.size, expected=self.digest)

        async with grpc.aio.insecure_channel(f"unix:{self.address}") as channel:
            call = channel.stream_stream(WRITE, request.SerializeToString, reply.FromString)(
                requests(), metadata=NAMESPACE
            )
            async for _ in call:
                pass

    async def grpcio_read(self) -> None:
        import grpc.aio

        request, reply = (
            self.classes(f"containerd.services.content.v1.ReadContent{n}") for n in ("Request", "Response")
        )
        options = [("grpc.max_receive_message_length", 16 << 20)]
        async with grpc.aio.insecure_channel(f"unix:{self.address}", options=options) as channel:
            call = channel.unary_stream(READ, request.SerializeToString, reply.FromString)
            total = 0
            async for message in call(request(digest=self.digest), metadata=NAMESPACE):
                total += len(message.data)
        assert total == self.size

    async def ctr_write(self) -> None:
        with self.path.open("rb") as file:
            await self._ctr("content", "ingest", "--expected-digest", self.digest, "bench", stdin=file)

    async def ctr_read(self) -> None:
        await self._ctr("content", "get", self.digest)

    async def _ctr(self, *args: str, stdin: Any = subprocess.DEVNULL) -> None:
        process = await asyncio.create_subprocess_exec(
            "ctr", "-a", self.address, *args, stdin=stdin, stdout=subprocess.DEVNULL
        )
        assert await process.wait() == 0


def measure(peers: Peers, work: Callable[[], Awaitable[None]], *, writes: bool) -> dict[str, float]:
    """Run `work`; return megabytes per second and CPU seconds, children included."""
    if writes:
        peers.renew()

    def cpu() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in usage)

    before, began = cpu(), time.perf_counter()
    asyncio.run(work())  # type: ignore[arg-type]
    wall, used = time.perf_counter() - began, cpu() - before
    return {"rate": peers.size / 1e6 / wall, "cpu": used}


def compare(peers: Peers, rounds: int) -> None:
    """Print the table of one daemon."""
    writes = {
        "containerd-aio": peers.ours_write,
        "grpc.aio + protobuf (upb)": peers.grpcio_write,
        "ctr": peers.ctr_write,
    }
    written = interleaved(rounds, {n: lambda w=w: measure(peers, w, writes=True) for n, w in writes.items()})
    peers.renew()
    asyncio.run(peers.ours_write({"containerd.io/gc.root": "2026-01-01T00:00:00Z"}))
    reads = {
        "containerd-aio": peers.ours_read,
        "grpc.aio + protobuf (upb)": peers.grpcio_read,
        "ctr": peers.ctr_read,
    }
    read = interleaved(rounds, {n: lambda r=r: measure(peers, r, writes=False) for n, r in reads.items()})
    rows = [
        [
            n,
            f"{read[n]['rate']:,.0f}",
            f"{read[n]['cpu']:.2f}",
            f"{written[n]['rate']:,.0f}",
            f"{written[n]['cpu']:.2f}",
        ]
        for n in writes
    ]
    table(
        f"Content: a blob of {peers.size / 1e6:,.0f} MB, median of {rounds} rounds",
        ["client", "read MB/s", "CPU s", "write MB/s", "CPU s"],
        rows,
    )
    ours, *others = writes
    for peer in others:
        print(
            f"  {ours} / {peer}: read {read[ours]['rate'] / read[peer]['rate']:.2f}, "
            f"write {written[ours]['rate'] / written[peer]['rate']:.2f}",
            flush=True,
        )


async def main() -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "blob"
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
        async with Daemon() as daemon:
            peers = Peers(daemon.address, path)
            await asyncio.to_thread(compare, peers, rounds)


if __name__ == "__main__":
    asyncio.run(main())
