"""A proxy on a unix socket that breaks connections on demand: between a client and a real daemon, or anything else."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream

from containerd_aio._daemon.paths import check_free
from containerd_aio._supervisor import Supervisor
from containerd_aio.errors import Closed, InvalidArgument

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    from anyio.abc import Listener

_CHUNK = 1 << 16
# What a throttled direction sends at a time, so that a slow rate is smooth.
_SLICES_PER_SECOND = 50


@dataclass(slots=True)
class _Weather:
    """What befalls data that passes now."""

    frozen: bool = False
    delay: float = 0.0
    bytes_per_second: float | None = None


class ProxiedConnection:
    """One connection through the proxy.

    Attributes:
        number: 1 for the first connection of the proxy.
        sent: Bytes that went to the server.
        received: Bytes that came from the server.
        open: Whether it is open.
    """

    def __init__(self, number: int, client: SocketStream, server: SocketStream, common: _Weather) -> None:
        self.number = number
        self.sent = 0
        self.received = 0
        self.open = True
        self._client = client
        self._server = server
        self._common = common
        self._own = _Weather()
        self._changed = anyio.Event()
        self._cut = anyio.CancelScope()
        self._closed = anyio.Event()

    def __repr__(self) -> str:
        state = "open" if self.open else "closed"
        return f"<ProxiedConnection {self.number} {state} sent={self.sent} received={self.received}>"

    # --- faults -------------------------------------------------------------------------------------------------------

    async def cut(self) -> None:
        """Break it, on both sides at once, and return when that is done."""
        self._cut.cancel()
        await self._closed.wait()
        for _ in range(2):  # a client in this loop may notice it now
            await anyio.lowlevel.checkpoint()

    def freeze(self) -> None:
        """Let nothing through any more, without a word to either side."""
        self._own.frozen = True

    def thaw(self) -> None:
        """Go on where `freeze` stopped; what came meanwhile is passed on."""
        self._own.frozen = False
        self.weather_changed()

    def delay(self, seconds: float) -> None:
        """Pass every piece of data on so much later; 0 ends it."""
        self._own.delay = _checked("delay", seconds)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Let no more than this through, in each direction; None ends it."""
        self._own.bytes_per_second = _checked_rate(bytes_per_second)

    async def half_close(self, *, server: bool = True) -> None:
        """End one direction: tell the server that the client sends no more, or, with ``server=False``, the other way."""
        stream = self._server if server else self._client
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await stream.send_eof()

    def weather_changed(self) -> None:
        """Have what is frozen look again."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    # --- passing on ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Pass data on in both directions until one side is lost, or it is cut."""
        try:
            with self._cut:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._pump, self._client, self._server, self._count_sent)
                    group.start_soon(self._pump, self._server, self._client, self._count_received)
        finally:
            self.open = False
            with anyio.CancelScope(shield=True):
                await self._client.aclose()
                await self._server.aclose()
            self._closed.set()

    def _count_sent(self, size: int) -> None:
        self.sent += size

    def _count_received(self, size: int) -> None:
        self.received += size

    async def _pump(self, source: SocketStream, target: SocketStream, count: Callable[[int], None]) -> None:
        try:
            while True:
                data = await source.receive(_CHUNK)
                await self._pass(data, target)
                count(len(data))
        except anyio.EndOfStream:
            await self._pass(b"", target)
            with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await target.send_eof()
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._cut.cancel()  # a lost side loses the other

    async def _pass(self, data: bytes, target: SocketStream) -> None:
        delay = self._own.delay or self._common.delay
        if delay:
            await anyio.sleep(delay)
        await self._until_thawed()
        while data:
            rate = self._own.bytes_per_second or self._common.bytes_per_second
            if rate is None:
                await target.send(data)
                return
            size = max(1, int(rate / _SLICES_PER_SECOND))
            await anyio.sleep(min(size, len(data)) / rate)
            await self._until_thawed()
            await target.send(data[:size])
            data = data[size:]

    async def _until_thawed(self) -> None:
        while self._own.frozen or self._common.frozen:
            await self._changed.wait()


class FaultProxy:
    """Stands between a client and a unix socket, and can cut, freeze, delay and throttle what passes.

    ::

        async with FaultProxy(daemon.address) as proxy, Client(proxy.address) as client:
            ...
            await proxy.cut()

    Every fault may also be had for a single one of the `connections`.

    Args:
        upstream: Path of the socket behind it.
        path: Where to make its own socket; a temporary directory by default.

    Attributes:
        address: Path of its socket.
        connections: The open connections, oldest first.
        accepted: How many there ever were.
        refused: How many could not be made because nobody answered behind, or because of `refuse`.
    """

    def __init__(self, upstream: str | PathLike[str], *, path: str | PathLike[str] | None = None) -> None:
        self._upstream = str(upstream).removeprefix("unix://")
        self._wanted_path = path
        self._weather = _Weather()
        self._refusing = False
        self._supervisor: Supervisor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.address = ""
        self.connections: list[ProxiedConnection] = []
        self.accepted = 0
        self.refused = 0

    def __repr__(self) -> str:
        return f"<FaultProxy {self.address or 'not started'} -> {self._upstream}>"

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            Closed: It was started already.
            FailedPrecondition: Something is at the given path, other than a socket left behind.
            OSError: The socket can't be made.
        """
        if self._supervisor is not None:
            raise Closed("this proxy was started already; make another one")
        self._folder = tempfile.TemporaryDirectory(prefix="containerd-aio-proxy-")
        path = Path(self._wanted_path or Path(self._folder.name) / "proxy.sock")
        self._supervisor = supervisor = Supervisor()
        try:
            await supervisor.start(f"fault proxy {path}")
            check_free(str(path))
            listener = await anyio.create_unix_listener(path)
            self.address = str(path)
            supervisor.task_group.start_soon(self._serve, listener, self._accept)
        except BaseException:
            await self._close(supervisor)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Break what is open, and remove the socket."""
        assert self._supervisor is not None
        with anyio.CancelScope(shield=True):
            await self._close(self._supervisor)

    async def _close(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.stop()
        finally:
            if self.address:
                await anyio.Path(self.address).unlink(missing_ok=True)
            assert self._folder is not None
            self._folder.cleanup()

    @staticmethod
    async def _serve(
        listener: Listener[SocketStream], accept: Callable[[SocketStream], Awaitable[None]]
    ) -> None:
        async with listener:
            await listener.serve(accept)

    async def _accept(self, client: SocketStream) -> None:
        if self._refusing:
            server = None
        else:
            try:
                server = await anyio.connect_unix(self._upstream)
            except OSError:
                server = None
        if server is None:
            self.refused += 1
            await anyio.aclose_forcefully(client)
            return
        self.accepted += 1
        connection = ProxiedConnection(self.accepted, client, server, self._weather)
        self.connections.append(connection)
        try:
            await connection.run()
        finally:
            self.connections.remove(connection)

    # --- faults -------------------------------------------------------------------------------------------------------

    async def cut(self) -> None:
        """Break every connection, and return when that is done; new ones are let through."""
        for connection in list(self.connections):
            await connection.cut()

    def refuse(self, refusing: bool = True) -> None:
        """Break new connections at once; ``refuse(False)`` ends it."""
        self._refusing = refusing

    def freeze(self) -> None:
        """Let nothing through any more, on old and new connections, without a word to either side."""
        self._weather.frozen = True

    def thaw(self) -> None:
        """Go on where `freeze` stopped; single connections that were frozen stay so."""
        self._weather.frozen = False
        for connection in self.connections:
            connection.weather_changed()

    def delay(self, seconds: float) -> None:
        """Pass every piece of data on so much later; 0 ends it."""
        self._weather.delay = _checked("delay", seconds)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Let no more than this through, on each connection and in each direction; None ends it."""
        self._weather.bytes_per_second = _checked_rate(bytes_per_second)

    async def half_close(self, *, server: bool = True) -> None:
        """End one direction of every connection; see `ProxiedConnection.half_close`."""
        for connection in list(self.connections):
            await connection.half_close(server=server)


def _checked(what: str, seconds: float) -> float:
    if not seconds >= 0:
        raise InvalidArgument(f"{what} is {seconds} seconds; it must not be negative")
    return seconds


def _checked_rate(bytes_per_second: float | None) -> float | None:
    if bytes_per_second is not None and not bytes_per_second > 0:
        raise InvalidArgument(
            f"throttle is {bytes_per_second} bytes per second; it must be more than 0 (freeze stops all)"
        )
    return bytes_per_second
