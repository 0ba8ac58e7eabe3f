"""A gRPC server in this process, on a unix socket, for tests of the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd.services.events.v1 import EventsBase
from containerd_aio.api.containerd.services.tasks.v1 import (
    GetRequest,
    GetResponse,
    TasksBase,
    WaitRequest,
    WaitResponse,
)
from containerd_aio.api.containerd.services.version.v1 import VersionBase, VersionResponse
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Any as AnyMessage


class FakeVersion(VersionBase):
    """Answers, or stays silent for ever."""

    def __init__(self) -> None:
        self.silent = False
        self.calls = 0
        self.size = 0

    async def version(self, message: Any) -> VersionResponse:
        self.calls += 1
        if self.silent:
            await anyio.sleep_forever()
        return VersionResponse(version="x" * self.size or "1.2.3", revision="r")


class FakeTasks(TasksBase):
    """Get fails with the status that the container id names; Wait never answers."""

    async def get(self, message: GetRequest) -> GetResponse:
        raise GRPCError(Status[message.container_id], f"about {message.container_id}")

    async def wait(self, message: WaitRequest) -> WaitResponse:
        await anyio.sleep_forever()
        raise AssertionError


class FakeEvents(EventsBase):
    """Subscribe streams `count` events of `size` bytes, then stays open."""

    def __init__(self) -> None:
        self.count = 0
        self.size = 10
        self.open = 0
        self.closed = anyio.Event()

    async def subscribe(self, message: Any) -> AsyncIterator[Envelope]:
        self.open += 1
        try:
            for i in range(self.count):
                yield Envelope(topic=f"/n/{i}", event=AnyMessage(value=b"x" * self.size))
            await anyio.sleep_forever()
        finally:
            self.open -= 1
            self.closed.set()


class Fake:
    """The services, the server and its address."""

    def __init__(self, path: Path) -> None:
        self.version, self.tasks, self.events = FakeVersion(), FakeTasks(), FakeEvents()
        self.address = Address.parse(str(path))
        self.server = Server([self.version, self.tasks, self.events])

    def channel(self, *, timeout: float = 5, connect_timeout: float = 5, **options: Any) -> Channel:
        return Channel(self.address, timeout=timeout, connect_timeout=connect_timeout, **options)


@asynccontextmanager
async def fake_server(path: Path) -> AsyncIterator[Fake]:
    """Serve on `path` for the length of the block."""
    fake = Fake(path)
    assert fake.address.path is not None
    await fake.server.start(path=fake.address.path)
    try:
        yield fake
    finally:
        fake.server.close()
        await fake.server.wait_closed()
