"""What the tests of images have in common."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from containerd_aio._transport.hook import Call
from containerd_aio.distribution.archive import import_archive
from containerd_aio.distribution.manifests import OCI_MANIFEST
from containerd_aio.image import Image
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.images import ImageStore
from containerd_aio.services.leases import Leases
from containerd_aio.services.snapshots import Snapshotter
from containerd_aio.services.stubs import Services

NAME = "docker.io/library/sample:1.0"
LAYERS = [
    {"etc/one": b"1" * 5000},
    {"etc/two": b"2"},
    {"etc/.wh.one": b"", "three": random.Random(1).randbytes(300_000)},
]


async def collect_garbage(services: Services) -> None:
    """Run a garbage collection and wait for it."""
    store = ImageStore(services)
    target = Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 1)
    await store.create_or_update("garbage", target)
    await store.delete("garbage", sync=True)


async def leftovers(services: Services) -> dict[str, list[Any]]:
    """What there is besides finished content, snapshots and images."""
    return {
        "leases": await Leases(services).list(),
        "ingests": await ContentStore(services).statuses(),
        "active": await Snapshotter(services).list("kind==active"),
    }


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what the daemon does in its own time: it carries out calls that were cancelled as well."""
    with anyio.fail_after(10):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def import_one(services: Services, source: Any, **options: Any) -> Image:
    (record,) = await import_archive(services, source, **options)
    return Image(services, record)


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


async def in_chunks(path: Path, size: int = 10_000) -> AsyncIterator[bytes]:
    data = await anyio.Path(path).read_bytes()
    for at in range(0, len(data), size):
        yield data[at : at + size]


class CancelAt:
    """Cancels a scope when the RPC of a certain number starts, or has ended."""

    def __init__(self) -> None:
        self.countdown = -1
        self.after = False
        self.scope: anyio.CancelScope | None = None
        self.calls: list[str] = []

    def arm(self, number: int, scope: anyio.CancelScope, *, after: bool) -> None:
        self.countdown, self.scope, self.after = number, scope, after

    def __call__(self, call: Call) -> Callable[[BaseException | None], None] | None:
        self.calls.append(call.method)
        self.countdown -= 1
        if self.countdown != 0 or self.scope is None:
            return None
        if not self.after:
            self.scope.cancel()
            return None
        scope = self.scope
        return lambda _error: scope.cancel()
