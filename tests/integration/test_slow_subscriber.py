"""A subscriber that never reads: what it costs here is bounded, and the daemon does not notice it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from containerd_aio import Client, Daemon, Lagged, ResourceExhausted, UnknownEvent
from containerd_aio.api.containerd.services.events.v1 import PublishRequest
from containerd_aio.api.google.protobuf import Any as AnyMessage

EVENTS = 100_000
PUBLISHERS = 4
SIZE = 500  # unread, the daemon would keep all of it: more than 100 MB


def resident(pid: int | str = "self") -> int:
    """Return the resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10


async def publish(address: str, count: int) -> None:
    """Publish from a connection of its own, several calls at a time."""
    payload = AnyMessage(type_url="example.com/Noise", value=b"x" * SIZE)
    request = PublishRequest(topic="/noise", event=payload)
    async with Client(address, namespace="noise") as client:

        async def some(share: int) -> None:
            for _ in range(share):
                await client.services.events.publish(request)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(some, count // 8)


@pytest.mark.timeout(300)
async def test_E29_S36_100_000_events_that_nobody_reads(
    private_daemon: Callable[..., Daemon], containerd_version: str
) -> None:
    count = EVENTS if containerd_version == "2.1" else 9_600
    async with private_daemon() as daemon, Client(daemon.address, namespace="noise") as client:
        assert daemon.pid is not None
        async with (
            client.events(buffer=1000) as stuck,
            client.events(buffer=1000, overflow="close") as ended,
        ):
            await publish(daemon.address, 2000)  # whatever grows to its size at first, here and there
            await client.barrier()
            gc.collect()
            before, here = resident(daemon.pid), resident()
            async with anyio.create_task_group() as group:
                for _ in range(PUBLISHERS):
                    group.start_soon(publish, daemon.address, count // PUBLISHERS)
            await client.barrier()
            gc.collect()
            grown, grown_here = resident(daemon.pid) - before, resident() - here
            print(
                f"{count} events of {SIZE} bytes unread: containerd +{grown >> 10} kB, here +{grown_here >> 10} kB"
            )
            assert client.statistics().events >= count + 2000
            assert (stuck.pending, stuck.dropped) == (1000, count + 2000 - 1000)
            assert grown < 30 << 20
            assert grown_here < 20 << 20
            assert await anext(stuck) == Lagged(count + 1000)
            assert isinstance(await anext(stuck), UnknownEvent)
            for _ in range(1000):
                assert isinstance(await anext(ended), UnknownEvent)
            with pytest.raises(ResourceExhausted, match=f"{count + 1000} events were missed"):
                await anext(ended)
