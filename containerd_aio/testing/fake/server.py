"""The fake's gRPC server: its socket, its connections, and what can be done to them."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h2.config
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.events import RecvRequest, _DispatchServerEvents, listen
from grpclib.protocol import H2Protocol
from grpclib.server import Handler as GrpclibHandler

from containerd_aio._daemon.paths import check_free
from containerd_aio._transport.codec import Codec
from containerd_aio.testing.fake.call import Call, current_call

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from grpclib._typing import IServable

    from containerd_aio.testing.fake.rpc_faults import Faults

_BACKLOG = 1024
_CALLS_REMEMBERED = 10_000
_WINDOW = 1 << 20


class ServerCodec(Codec):
    """The library's codec; messages that are bytes are sent as they are."""

    def encode(self, message: Any, message_type: Any) -> bytes:
        """Return the wire form of `message`."""
        return message if isinstance(message, bytes) else super().encode(message, message_type)


class Server:
    """Serves the given services on a unix socket.

    Args:
        path: Path of the socket.
        services: The services.
        faults: What may befall a call.

    Attributes:
        calls: The calls that came last, oldest first.
    """

    def __init__(self, path: Path, services: Collection[IServable], faults: Callable[[], Faults]) -> None:
        self._path = path
        self._faults = faults
        self._mapping = {
            name: method for service in services for name, method in service.__mapping__().items()
        }
        self.__dispatch__ = _DispatchServerEvents()
        listen(cast("Any", self), RecvRequest, self._on_request)
        self._connections: set[_Connection] = set()
        self._listener: asyncio.AbstractServer | None = None
        self._frozen = False
        self.calls: deque[Call] = deque(maxlen=_CALLS_REMEMBERED)
        self._arrived = asyncio.Event()

    @property
    def methods(self) -> Collection[str]:
        """Full names of all methods."""
        return self._mapping.keys()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._listener is not None

    async def listen(self) -> None:
        """Begin to accept connections; a socket left behind is replaced.

        Raises:
            FailedPrecondition: Somebody listens there, or it is no socket.
        """
        check_free(str(self._path))
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(self._path))
            sock.setblocking(False)
            self._listener = await asyncio.get_running_loop().create_unix_server(
                self._accept, sock=sock, backlog=_BACKLOG
            )
        except BaseException:
            sock.close()
            raise

    def refuse(self, *, remove_socket: bool) -> None:
        """Accept no more connections.

        Args:
            remove_socket: Remove the socket, as a daemon does that ends in good order; a killed one leaves it behind.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if remove_socket:
            self._path.unlink(missing_ok=True)
        elif not self._path.exists():  # since 3.13 asyncio removes it
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.bind(str(self._path))

    def drop(self) -> None:
        """Break every connection."""
        for connection in list(self._connections):
            connection.abort()

    def freeze(self) -> None:
        """Neither read nor write any more, on old and new connections."""
        self._frozen = True
        for connection in self._connections:
            connection.freeze()

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        self._frozen = False
        for connection in list(self._connections):
            connection.thaw()

    async def close(self) -> None:
        """Stop: no connection, call or socket is left."""
        self.refuse(remove_socket=True)
        handlers = [connection.handler for connection in self._connections]
        self.drop()
        for handler in handlers:
            handler.close()
            await handler.wait_closed()
        await self.dropped()

    async def dropped(self) -> None:
        """Wait until the connections that were broken are gone, and the other side could notice it."""
        for connection in list(self._connections):
            await connection.gone.wait()
        for _ in range(3):
            await asyncio.sleep(0)

    async def called(self, wanted: Callable[[Call], bool], count: int) -> list[Call]:
        """Wait until so many of the remembered calls are of the wanted kind, and return those."""
        while len(found := [call for call in self.calls if wanted(call)]) < count:
            self._arrived.clear()
            await self._arrived.wait()
        return found

    async def _on_request(self, event: RecvRequest) -> None:
        call = Call(
            method=event.method_name,
            namespace=str(event.metadata.get("containerd-namespace", "")),
            lease=str(event.metadata.get("containerd-lease", "")),
            at=asyncio.get_running_loop().time(),
        )
        current_call.set(call)
        self.calls.append(call)
        self._arrived.set()
        event.method_func = cast("Any", self._faults().wrap(call, event.method_func))

    def _accept(self) -> _Connection:
        handler = _Handler(self._mapping, ServerCodec(), None, cast("Any", self.__dispatch__))
        connection = _Connection(handler, self._connections)
        if self._frozen:
            connection.freeze()
        return connection


class _Handler(GrpclibHandler):
    """grpclib's, which refuses unknown methods as Go's gRPC does, with a content type."""

    def accept(self, stream: Any, headers: Any, release_stream: Callable[[], Any]) -> None:
        path = dict(headers).get(":path", "")
        if path in self.mapping:
            super().accept(stream, headers, release_stream)
            return
        service, _, method = path.lstrip("/").rpartition("/")
        known = any(name.startswith(f"/{service}/") for name in self.mapping)
        text = f"unknown method {method} for service {service}" if known else f"unknown service {service}"
        reply = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", str(Status.UNIMPLEMENTED.value)),
            ("grpc-message", text),
        ]
        stream._h2_connection.send_headers(stream.id, reply, end_stream=True)  # noqa: SLF001 - as its own refusals do
        stream.connection.flush()
        if stream.closable:
            stream.reset_nowait()
        release_stream()


class _Connection(H2Protocol):
    """One connection, which can be frozen."""

    handler: GrpclibHandler

    def __init__(self, handler: GrpclibHandler, connections: set[_Connection]) -> None:
        super().__init__(
            handler,
            Configuration(
                http2_connection_window_size=_WINDOW * 16, http2_stream_window_size=_WINDOW
            ).__for_server__(),
            h2.config.H2Configuration(
                client_side=False,
                header_encoding="ascii",
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            ),
        )
        self._connections = connections
        self._gate: _Gate | None = None
        self._frozen = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gate = _Gate(cast("asyncio.Transport", transport))
        if self._frozen:
            self._gate.close_gate()
        self._connections.add(self)
        super().connection_made(cast("Any", self._gate))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        self.gone.set()
        super().connection_lost(exc)

    def freeze(self) -> None:
        self._frozen = True
        if self._gate is not None:
            self._gate.close_gate()

    def thaw(self) -> None:
        self._frozen = False
        if self._gate is not None:
            self._gate.open_gate()

    def abort(self) -> None:
        if self._gate is not None:
            self._gate.abort()


class _Gate:
    """A transport behind which the connection can be frozen: nothing is read, and what is written is kept."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._kept: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._kept is None:
            self._transport.write(data)
        else:
            self._kept.append(bytes(data))

    def close_gate(self) -> None:
        if self._kept is None:
            self._kept = []
            with suppress(RuntimeError):  # it is closing
                self._transport.pause_reading()

    def open_gate(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            if not self._transport.is_closing():
                self._transport.write(b"".join(kept))
                with suppress(RuntimeError):
                    self._transport.resume_reading()
