"""Unary calls past h2: the request in one write, the reply taken apart as it comes.

h2 and grpclib make some thirty objects for a small call and run its frames through three state machines, which is most of what
such a call costs. A request that fits into one frame needs none of that: our side of its stream ends where it begins, and what
can come are headers, messages, trailers or a reset. h2 is told what concerns the connection, the number of the stream and the
window used; of the stream itself it never hears (docs/decisions/0004, benchmarks/bench_unary.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from grpclib.exceptions import StreamTerminatedError
from h2.connection import ConnectionInputs
from h2.exceptions import ProtocolError
from hpack.exceptions import HPACKError

from containerd_aio._transport import frames, limits
from containerd_aio._transport.receive import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from grpclib.protocol import Connection

    from containerd_aio._transport.balance import BalancedWrapper
    from containerd_aio._transport.gathering import GatheringTransport

_PREFIX = 5  # of a gRPC message
_SUCCESS = (b":status", b"200")

# Of encoded headers, as much as h2 takes: 64 frames.
_MAX_BLOCK = 1 << 20

# What may come on the stream of an exchange.
KINDS = frozenset({
    frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.WINDOW_UPDATE, frames.CONTINUATION,
})  # fmt: skip


class Exchange:
    """A request that was sent, and what has come of its reply.

    Args:
        stream_id: Number of its stream.
        wrapper: Ends the wait for the reply when the connection is lost.
        write: Writes to the connection.

    Attributes:
        headers: The first headers of the reply; None while they are not here.
        trailers: The headers with which the stream has ended, the same if there were no others; None as long as it has not.
        ended: Whether the daemon has ended the stream.
        receiver: The messages.
        woken: Set when `is_decided`, and when the call is ended from outside.
    """

    def __init__(self, stream_id: int, wrapper: BalancedWrapper, write: Callable[[bytes], None]) -> None:
        self.id = stream_id
        self.wrapper = wrapper
        self.headers: Sequence[tuple[bytes, bytes]] | None = None
        self.trailers: Sequence[tuple[bytes, bytes]] | None = None
        self.ended = self._decided = False
        self.data_received = 0
        self.receiver = Receiver(
            cast("Any", self), window=limits.STREAM_WINDOW, limit=limits.MAX_MESSAGE, write=write
        )
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take_headers(self, headers: Sequence[tuple[bytes, bytes]], *, last: bool) -> None:
        """Take a block of headers; the `last` is that of the trailers."""
        if self.headers is None:
            self.headers = headers
        if last:
            self.trailers = headers
            self.end()
        elif _SUCCESS not in headers:
            self._decide()

    def take_data(self, data: bytes, start: int, stop: int) -> None:
        """Take the payload ``data[start:stop]`` of a DATA frame."""
        self.receiver.feed(data, start, stop)
        if self.receiver.failure is not None:
            self._decide()

    def end(self) -> None:
        """Note that the daemon has ended the stream."""
        self.ended = self.receiver.ended = True
        self._decide()

    def is_decided(self) -> bool:
        """Tell whether the outcome is here: the end, or what makes it pointless to wait for that."""
        return self._decided

    def _decide(self) -> None:
        self._decided = True
        if not self.woken.done():
            self.woken.set_result(None)


class Exchanges:
    """Those of one connection.

    Args:
        connection: The connection.
        transport: What it writes to.

    Attributes:
        open: By the number of the stream, those that neither side has ended before its time.
    """

    def __init__(self, connection: Connection, transport: GatheringTransport) -> None:
        self._connection = connection
        self._h2: Any = connection._connection
        self._transport = transport
        self.open: dict[int, Exchange] = {}
        self._block = b""  # of headers, as long as frames are to follow that continue it
        self._last = False  # the stream ends with it

    def begin(
        self, headers: Iterable[tuple[str, str]], pieces: Sequence[bytes], size: int, wrapper: BalancedWrapper
    ) -> Exchange | None:
        """Send a request if that takes a frame for the headers and one for the message, and no waiting; else return None.

        Args:
            headers: Request headers.
            pieces: The encoded message.
            size: Bytes in it.
            wrapper: Ends the wait for the reply when the connection is lost.
        """
        h2, settings = self._h2, self._h2.remote_settings
        largest = h2.max_outbound_frame_size
        if (
            size + _PREFIX > min(largest, h2.outbound_flow_control_window, settings.initial_window_size)
            or not self._connection.write_ready.is_set()
            or h2.open_outbound_streams >= settings.max_concurrent_streams
        ):
            return None
        block = h2.encoder.encode(headers)
        if len(block) > largest:
            h2.encoder.forget()
            return None
        # As H2Connection.send_headers and H2Connection.send_data account for them.
        stream_id = h2.get_next_available_stream_id()
        h2.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        h2.highest_outbound_stream_id = stream_id
        h2.outbound_flow_control_window -= size + _PREFIX
        self._connection.streams_started += 1
        exchange = Exchange(stream_id, wrapper, self._transport.write)
        alone = not self.open
        self.open[stream_id] = exchange
        self._transport.write(frames.request(stream_id, block, pieces, size), at_once=alone)
        return exchange

    def release(self, exchange: Exchange) -> None:
        """Forget `exchange`; it is reset if it has not ended."""
        if exchange.id in self.open:
            self._close(exchange.id)
            if not self._transport.is_closing():
                self._transport.write(frames.cancellation(exchange.id))

    def _close(self, stream_id: int) -> None:
        self.open.pop(stream_id, None)
        self._connection.stream_close_waiter.set()  # who waits because the daemon allows no more streams

    def terminate(self, reason: str) -> None:
        """End all of them: the connection is lost."""
        while self.open:
            self.open.popitem()[1].wrapper.cancel(StreamTerminatedError(reason))

    def concern(self, stream_id: int) -> bool:
        """Tell whether `stream_id` is the stream of an exchange, be it one that was given up."""
        h2 = self._h2
        return stream_id in self.open or (
            0 < stream_id <= h2.highest_outbound_stream_id
            and stream_id & 1 == 1
            and stream_id not in h2.streams
            and stream_id not in h2._closed_streams
        )

    def take(self, data: bytes, position: int, stop: int) -> None:
        """Take the frame ``data[position:stop]``, of a stream that is their `concern`.

        Raises:
            ProtocolError: It is not such a frame.
        """
        kind, flags = data[position + 3], data[position + 4]
        stream_id = int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFFFFFF
        exchange = self.open.get(stream_id)  # None: given up; its headers still count for the table
        start = position + frames.HEADER
        if kind == frames.DATA:
            start, stop = _unpadded(data, start, stop, flags)
            if exchange is not None:
                exchange.take_data(data, start, stop)
                if flags & frames.END_STREAM:
                    exchange.end()
        elif kind == frames.HEADERS:
            start, stop = _unpadded(data, start, stop, flags)
            if flags & frames.PRIORITY:
                start += 5
            self._block, self._last = data[start:stop], bool(flags & frames.END_STREAM)
            self._take_block(exchange, flags)
        elif kind == frames.CONTINUATION:
            self._block += data[start:stop]
            if len(self._block) > _MAX_BLOCK:
                raise ProtocolError("headers without an end")
            self._take_block(exchange, flags)
        elif kind == frames.RST_STREAM and exchange is not None:
            code = int.from_bytes(data[start:stop], "big")
            exchange.wrapper.cancel(
                StreamTerminatedError(f"Stream reset by remote party, error_code: {code}")
            )
            self._close(stream_id)
        if exchange is not None and exchange.ended:
            self._close(stream_id)

    def _take_block(self, exchange: Exchange | None, flags: int) -> None:
        if not flags & frames.END_HEADERS:
            return
        try:
            headers = self._h2.decoder.decode(self._block, raw=True)
        except HPACKError as exc:
            raise ProtocolError(f"headers that cannot be decoded: {exc}") from exc
        if exchange is not None:
            exchange.take_headers(headers, last=self._last)


def _unpadded(data: bytes, start: int, stop: int, flags: int) -> tuple[int, int]:
    """Return where the content of a payload begins and ends."""
    if flags & frames.PADDED:
        if start == stop or start + 1 + data[start] > stop:
            raise ProtocolError("a frame is shorter than its padding")
        return start + 1, stop - data[start]
    return start, stop
