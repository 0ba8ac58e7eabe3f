"""The fault proxy, in front of a plain echo server and of the fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from containerd_aio import Client, Closed, ConnectError, DeadlineExceeded, Gap, InvalidArgument
from containerd_aio.testing import FakeContainerd, FaultProxy


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[str]:
    """A server that sends back what it gets, and ``!`` when it is told that no more will come."""

    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(1024):
                writer.write(data)
            writer.write(b"!")
        writer.close()

    path = str(tmp_path / "echo.sock")
    async with await asyncio.start_unix_server(handle, path):
        yield path
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def _connected(proxy: FaultProxy) -> AsyncIterator[anyio.abc.SocketStream]:
    async with await anyio.connect_unix(proxy.address) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        yield stream


async def _silent(stream: anyio.abc.SocketStream) -> bool:
    """Whether nothing comes for a moment: there is no evidence of what does not happen."""
    with anyio.move_on_after(0.05):
        await stream.receive()
        return False
    return True


async def test_it_passes_on_and_counts(echo: str) -> None:
    async with FaultProxy(echo) as proxy:
        assert repr(proxy).endswith(echo + ">")
        async with _connected(proxy) as one, _connected(proxy):
            assert [connection.number for connection in proxy.connections] == [1, 2]
            connection = proxy.connections[0]
            assert (connection.sent, connection.received, connection.open) == (5, 5, True)
            assert repr(connection) == "<ProxiedConnection 1 open sent=5 received=5>"
            await one.send_eof()
            assert await one.receive() == b"!"
            with pytest.raises(anyio.EndOfStream):
                await one.receive()
        assert proxy.accepted == 2
        assert proxy.refused == 0
    assert not Path(proxy.address).exists()
    with pytest.raises(Closed):
        async with proxy:
            pass


async def test_cut(echo: str) -> None:
    async with FaultProxy(echo) as proxy, _connected(proxy) as one, _connected(proxy) as two:
        first, second = proxy.connections
        await first.cut()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await one.receive()
        assert proxy.connections == [second]
        assert not first.open
        await proxy.cut()
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await two.receive()
        async with _connected(proxy):
            assert proxy.accepted == 3


async def test_refuse(echo: str, tmp_path: Path) -> None:
    async with FaultProxy(echo) as proxy:
        proxy.refuse()
        async with await anyio.connect_unix(proxy.address) as stream:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert (proxy.accepted, proxy.refused) == (0, 1)
        proxy.refuse(False)
        async with _connected(proxy):
            pass
    async with FaultProxy(tmp_path / "nobody.sock") as proxy:
        async with await anyio.connect_unix(proxy.address) as stream:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert proxy.refused == 1


async def test_freeze_and_thaw(echo: str) -> None:
    async with FaultProxy(echo) as proxy, _connected(proxy) as one, _connected(proxy) as two:
        proxy.connections[0].freeze()
        await one.send(b"kept")
        await two.send(b"through")
        assert await two.receive() == b"through"
        assert await _silent(one)
        proxy.thaw()  # of all; this one was frozen by itself
        assert await _silent(one)
        proxy.connections[0].thaw()
        assert await one.receive() == b"kept"
        proxy.freeze()
        await one.send(b"1")
        await two.send(b"2")
        assert await _silent(two)
        proxy.thaw()
        assert await one.receive() + await two.receive() == b"12"


async def test_delay(echo: str) -> None:
    async with FaultProxy(echo) as proxy, _connected(proxy) as stream:
        proxy.delay(0.05)
        began = time.monotonic()
        await stream.send(b"x")
        await stream.receive()
        assert time.monotonic() - began >= 0.1  # there and back
        proxy.delay(0)
        proxy.connections[0].delay(0.02)
        began = time.monotonic()
        await stream.send(b"x")
        await stream.receive()
        assert time.monotonic() - began >= 0.04
        with pytest.raises(InvalidArgument, match="negative"):
            proxy.delay(-1)


async def test_throttle(echo: str) -> None:
    async with FaultProxy(echo) as proxy, _connected(proxy) as stream:
        proxy.throttle(20_000)
        began = time.monotonic()
        await stream.send(b"x" * 2_000)
        got = b""
        while len(got) < 2_000:
            got += await stream.receive()
        assert time.monotonic() - began >= 0.09
        proxy.throttle(None)
        proxy.connections[0].throttle(1_000_000)
        await stream.send(b"y")
        assert await stream.receive() == b"y"
        with pytest.raises(InvalidArgument, match="freeze"):
            proxy.throttle(0)


async def test_half_close(echo: str) -> None:
    async with FaultProxy(echo) as proxy, _connected(proxy) as one, _connected(proxy) as two:
        await proxy.half_close()
        assert await one.receive() == b"!"  # the server was told
        await two.receive()
    async with FaultProxy(echo) as proxy, _connected(proxy) as stream:
        await proxy.connections[0].half_close(server=False)
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send(b"still goes")
        assert proxy.connections[0].open


async def test_in_front_of_a_daemon(tmp_path: Path) -> None:
    async with FakeContainerd() as fake, FaultProxy(fake.address) as proxy:
        async with Client(proxy.address, timeout=0.3) as client, client.events() as events:
            await client.publish("/one")
            assert (await anext(events)).topic == "/one"  # type: ignore[union-attr]
            proxy.freeze()
            with pytest.raises(DeadlineExceeded):
                await client.version()
            with pytest.raises(ConnectError):
                async with Client(proxy.address, connect_timeout=0.1):
                    pass
            proxy.thaw()
            await client.version()
            await proxy.cut()
            with anyio.fail_after(10):
                while not isinstance(await anext(events), Gap):
                    pass
            assert client.statistics().sessions == 2
