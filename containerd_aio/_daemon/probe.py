"""The evidence that a daemon is ready."""

from __future__ import annotations

from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd.services.version.v1 import VersionStub
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.api.grpc.health.v1 import HealthCheckRequest, HealthCheckResponseServingStatus, HealthStub
from containerd_aio.errors import Unavailable


async def probe(address: str, *, timeout: float) -> str:
    """Ask a daemon for its version, once its health service says that it serves."""
    channel = Channel(Address.parse(address), timeout=timeout, connect_timeout=timeout)
    try:
        health = await HealthStub(channel).check(HealthCheckRequest())
        if health.status != HealthCheckResponseServingStatus.SERVING:
            raise Unavailable(f"its health service answers {health.status!r}")
        return (await VersionStub(channel).version(Empty())).version
    finally:
        channel.close()
