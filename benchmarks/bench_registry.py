"""Pulling and pushing a large image from and to a registry on loopback, beside ctr.

python benchmarks/bench_registry.py [megabytes] [layers] [rounds]

Seconds, and CPU seconds of the client (ours, or ctr) and of the daemon; the registry is not counted. Needs root,
containerd and docker-registry.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from _table import interleaved, table

from containerd_aio import Client, Daemon
from containerd_aio.distribution.keychain import StaticKeychain
from containerd_aio.testing.images import build_image_archive
from containerd_aio.testing.registry import RegistryServer

ANONYMOUS = StaticKeychain({})
TICK = os.sysconf("SC_CLK_TCK")


def daemon_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def client_cpu() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


class Bench:
    """One daemon, one registry, one image."""

    def __init__(self, daemon: Daemon, registry: RegistryServer, name: str, ctr: str) -> None:
        self.daemon, self.registry, self.name, self.ctr_binary = daemon, registry, name, ctr
        self.empty = registry

    def run(
        self,
        work: Callable[[Client], Awaitable[None]],
        before: Callable[[Client], AbstractAsyncContextManager[None]],
    ) -> dict[str, float]:
        async def whole() -> dict[str, float]:
            async with Client(self.daemon.address) as client:
                async with before(client):
                    os.sync()
                    assert self.daemon.pid is not None
                    clients, daemons = client_cpu(), daemon_cpu(self.daemon.pid)
                    began = time.perf_counter()
                    await work(client)
                    return {
                        "seconds": time.perf_counter() - began,
                        "client": client_cpu() - clients,
                        "daemon": daemon_cpu(self.daemon.pid) - daemons,
                    }

        return asyncio.run(whole())

    @asynccontextmanager
    async def gone(self, client: Client) -> AsyncIterator[None]:
        """Remove the image with all it has."""
        for image in await client.images():
            await image.delete(sync=True)
        yield

    @asynccontextmanager
    async def here(self, client: Client) -> AsyncIterator[None]:
        """Have the image, and a registry that has seen nothing of it."""
        if not await client.images():
            await client.fetch(self.name, keychain=ANONYMOUS)
        async with RegistryServer() as self.empty:
            yield

    @property
    def fresh(self) -> str:
        return f"{self.empty.host}/bench/image:1"

    async def ours_pull(self, client: Client) -> None:
        await client.pull(self.name, keychain=ANONYMOUS, via="client")

    async def daemon_pull(self, client: Client) -> None:
        await client.pull(self.name, keychain=ANONYMOUS, via="daemon")

    async def ours_push(self, client: Client) -> None:
        [image] = await client.images()
        await client.push(self.fresh, image, keychain=ANONYMOUS)

    async def ctr(self, *args: str) -> None:
        argv = [self.ctr_binary, "-a", self.daemon.address, "images", *args]
        process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0

    async def ctr_pull(self, _: Client) -> None:
        await self.ctr("pull", "--plain-http", *self.local, self.name)

    async def ctr_push(self, _: Client) -> None:
        await self.ctr("push", "--plain-http", *self.local, self.fresh, self.name)

    async def ctr_daemon_pull(self, _: Client) -> None:
        await self.ctr("pull", "--plain-http", self.name)

    @property
    def local(self) -> list[str]:
        """What makes ctr move the bytes itself; the older ones can't do otherwise."""
        done = subprocess.run(
            [self.ctr_binary, "images", "pull", "--help"], capture_output=True, text=True, check=False
        )
        return ["--local"] if "--local" in done.stdout else []


def compare(bench: Bench, rounds: int, megabytes: int, layers: int, version: str) -> None:
    pulls: dict[str, Any] = {"containerd-aio": bench.ours_pull, "ctr": bench.ctr_pull}
    if bench.local:
        pulls |= {
            "containerd-aio, by the daemon": bench.daemon_pull,
            "ctr, by the daemon": bench.ctr_daemon_pull,
        }
    pushes: dict[str, Any] = {"containerd-aio": bench.ours_push, "ctr": bench.ctr_push}
    for verb, cases, before in (("Pull", pulls, bench.gone), ("Push", pushes, bench.here)):
        found = interleaved(
            rounds, {name: lambda w=work, b=before: bench.run(w, b) for name, work in cases.items()}
        )
        rows = []
        for name, figures in found.items():
            peer = found["ctr, by the daemon" if "daemon" in name else "ctr"]
            rows.append(
                [
                    name,
                    f"{figures['seconds']:.2f}",
                    f"{figures['client']:.2f}",
                    f"{figures['daemon']:.2f}",
                    f"{figures['seconds'] / peer['seconds']:.2f}",
                ]
            )
        table(
            f"{verb}: {megabytes} MB in {layers} layers, containerd {version}, median of {rounds} rounds",
            ["client", "seconds", "client CPU s", "daemon CPU s", "seconds / ctr's"],
            rows,
        )


async def measure(folder: Path, binary: str, megabytes: int, layers: int, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(RegistryServer(root=folder / "registry"))
        daemon = await stack.enter_async_context(Daemon(binary=binary, log_level="error"))
        name = f"{registry.host}/bench/image:1"
        archive = build_image_archive(
            folder / "image.tar",
            name,
            layers=[{f"file-{n}": os.urandom(megabytes * 1_000_000 // layers)} for n in range(layers)],
            compression="none",
        )
        async with Client(daemon.address) as client:
            await client.import_archive(archive)
            await client.push(name, keychain=ANONYMOUS)
            version = (await client.version()).version
        archive.unlink()
        ctr = Path(binary).with_name("ctr")
        bench = Bench(daemon, registry, name, str(ctr))
        await asyncio.to_thread(compare, bench, rounds, megabytes, layers, version)


def _binaries() -> list[str]:
    """Return containerd of each release line of the test bed."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    import testbed

    return [str(found["containerd"]) for found in testbed.listing().values()] or [
        shutil.which("containerd") or ""
    ]


async def main() -> None:
    """Print the tables."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    megabytes, layers, rounds = ([int(a) for a in sys.argv[1:4]] + [1000, 4, 3][len(sys.argv) - 1 :])[:3]
    binaries = _binaries()
    for binary in (binaries[0], binaries[-1]) if len(binaries) > 1 else binaries:
        with tempfile.TemporaryDirectory() as folder:
            await measure(Path(folder), binary, megabytes, layers, rounds)


if __name__ == "__main__":
    asyncio.run(main())
