"""A unary call: an exchange past h2 where that is possible, else a stream like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from containerd_aio._transport.stream import Stream
from containerd_aio.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from containerd_aio._transport.exchange import Exchange, Exchanges
    from containerd_aio._transport.protocol import ReceivingProtocol


_USUAL = {(b":status", b"200"), (b"content-type", b"application/grpc")}
_OK = (b"grpc-status", b"0")


class UnaryStream(Stream):
    """One unary RPC: for stubs, which send a message and receive one.

    What goes out as an exchange has none of grpclib's events and metadata.
    """

    _exchange: Exchange | None = None
    _exchanges: Exchanges

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        """Send the request, unless it would crash the daemon or exceed its limit."""
        if self._send_request_done or not self._short:
            await super().send_message(message, end=end)
            return
        pieces, size = self._encoded(message)
        self._refuse_missing()
        protocol = self._channel.connected
        if protocol is None:
            with self._wrapper:
                protocol = cast("ReceivingProtocol", await self._channel.__connect__())
        exchange = protocol.exchanges.begin(self._request_headers(), pieces, size, self._wrapper)
        if exchange is None:
            await super().send_message(message, end=end)
            return
        self._exchange, self._exchanges = exchange, protocol.exchanges
        self._send_request_done = self._send_message_done = self._end_done = True
        self._wrapper.settled = exchange.is_decided

    async def recv_message(self) -> Any:
        """Return the reply.

        Raises:
            Internal: There is none although the call has succeeded, or it is not what was announced.
        """
        exchange = self._exchange
        if exchange is None:
            message = await super().recv_message()
            if message is None:
                await self.recv_trailing_metadata()
        else:
            await self._wrapper.wait(exchange.woken)
            self._judge(exchange)
            data = exchange.receiver.take()
            message = None if data is None else self._decoded(data)
        if message is None:
            raise Internal("the call has succeeded, but there is no reply")
        return message

    def _judge(self, exchange: Exchange) -> None:
        """Raise the status of `exchange` unless it is OK."""
        if exchange.headers and _USUAL.issubset(exchange.headers) and _OK in (exchange.trailers or ()):
            return
        headers = _text(exchange.headers or exchange.trailers or ())
        headers.setdefault(":status", "missing")
        self._raise_for_status(headers)
        self._raise_for_content_type(headers)
        if exchange.receiver.failure is not None:
            raise exchange.receiver.failure
        self._raise_for_grpc_status(*self._process_grpc_status(_text(exchange.trailers or ())))

    async def _leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._exchange is None:
            await super()._leave(exc_type, exc, tb)
            return
        self._exchanges.release(self._exchange)


def _text(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("ascii", "replace"): value.decode("ascii", "replace") for name, value in headers}
