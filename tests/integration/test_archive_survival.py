"""Imports and exports while the daemon or their own process is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client, Unavailable
from containerd_aio.daemon import Daemon
from containerd_aio.distribution import _leases
from containerd_aio.distribution.build import BuiltImage, build_image
from containerd_aio.distribution.progress import ProgressEvent
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import Leases
from tests.integration.image_support import collect_garbage, eventually, leftovers
from tests.integration.registry_support import noise

NAME = "docker.io/library/big:1"
NOTHING: dict[str, list[Any]] = {"leases": [], "ingests": [], "active": []}

# More than the connection and the daemon hold for somebody who has not asked for it yet.
SIZE = 24 << 20


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    """An image with one large layer."""
    return build_image(layers=[{"noise": noise(SIZE, 1)}], compression="none")


async def coming(client: Client) -> bool:
    """Some of a blob has come."""
    return any(status.offset > 100_000 for status in await ContentStore(client.services).statuses())


async def complete(client: Client, image: BuiltImage) -> None:
    """The image is whole, nothing is left over, and there is nothing else."""
    found = await client.image(NAME)
    assert found.target.digest == image.target.digest
    assert await found.is_unpacked()
    await collect_garbage(client.services)
    assert (await found.check()).complete
    assert {info.digest for info in await ContentStore(client.services).list()} == set(image.blobs)
    assert await leftovers(client.services) == NOTHING


async def test_a_daemon_killed_in_mid_import_and_in_mid_export(
    private_daemon: Callable[..., Daemon], image: BuiltImage, tmp_path: Path
) -> None:
    archive = image.archive(NAME)
    out = tmp_path / "out.tar"
    async with private_daemon() as daemon, Client(daemon.address) as client:

        def kill() -> None:
            assert daemon.pid is not None
            os.kill(daemon.pid, signal.SIGKILL)

        async def half() -> AsyncIterator[bytes]:
            yield archive[: SIZE // 2]
            await eventually(partial(coming, client))
            kill()
            yield archive[SIZE // 2 :]

        with pytest.raises(Unavailable, match="containerd"):
            await client.import_archive(half(), unpack=True)
        await daemon.restart()
        assert await client.images() == []

        async def whole() -> AsyncIterator[bytes]:
            yield archive

        await client.import_archive(whole(), unpack=True)
        await complete(client, image)

        def kill_once(event: ProgressEvent) -> None:
            nonlocal killed
            if event.total > SIZE and not killed:
                killed = True
                kill()

        killed = False
        with pytest.raises(Unavailable, match="containerd"):
            await client.export_archive(out, NAME, progress=kill_once)
        assert killed
        assert not out.exists()
        await daemon.restart()
        assert await client.export_archive(out, NAME) == out.stat().st_size
        await complete(client, image)
        await (await client.image(NAME)).delete(sync=True)
        await client.import_archive(out, unpack=True)
        await complete(client, image)


PROGRAM = """
import sys, anyio
from containerd_aio import Client

async def main(address, namespace):
    async with Client(address, namespace=namespace) as client:
        await client.import_archive(sys.stdin.buffer, unpack=True)

anyio.run(main, *sys.argv[1:])
"""


async def test_a_process_killed_in_mid_import_leaves_nothing_after_the_next_one(
    daemon: Daemon, namespace: str, image: BuiltImage, tmp_path: Path
) -> None:
    archive = image.archive(NAME)
    async with Client(daemon.address, namespace=namespace) as client:
        argv = [sys.executable, "-c", PROGRAM, daemon.address, namespace]
        async with await anyio.open_process(argv, stderr=None) as process:
            assert process.stdin is not None
            await process.stdin.send(archive[: SIZE // 2])
            await eventually(partial(coming, client))
            process.kill()
        [left] = await Leases(client.services).list()
        assert _leases.is_dead(left.labels[_leases.HOLDER_LABEL])
        (tmp_path / "big.tar").write_bytes(archive)
        await client.import_archive(tmp_path / "big.tar", unpack=True)
        await complete(client, image)
