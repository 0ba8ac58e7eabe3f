"""Reception of messages without h2's machinery for every DATA frame.

h2 builds objects, a log text and state transitions for each frame; on the event path and in bulk reads that is nearly
all of the work. DATA frames of our streams are therefore cut out of what the socket delivers and taken apart here;
every other frame goes to h2 untouched (docs/decisions/0004, benchmarks/bench_stream.py).

Flow control of those bytes is ours too. The connection's window is given back as bytes arrive, the stream's as its
messages are taken: an unread stream holds at most one window of memory and never stalls its neighbours.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from grpclib.protocol import H2Protocol

from containerd_aio._transport.headers import HeaderEncoder, StreamCount
from containerd_aio._transport.send import write_vector
from containerd_aio.errors import Internal, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib.protocol import Stream

_FRAME_HEADER = 9
_DATA, _PING = 0, 6
_END_STREAM, _ACK, _PADDED = 0x01, 0x01, 0x08
_MAX_FRAME = 16384  # what we announce, the protocol's default
_PREFIX = 5  # of a gRPC message: compressed flag, length


_PING_ACK = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00"


def _window_update(stream_id: int, size: int) -> bytes:
    return b"\x00\x00\x04\x08\x00" + stream_id.to_bytes(4, "big") + size.to_bytes(4, "big")


class Receiver:
    """The messages of one stream: put together as frames arrive, handed out in order.

    It stands in for grpclib's per-stream ``Buffer``.

    Args:
        stream: The stream.
        window: Its receive window, in bytes.
        limit: Largest message accepted, in bytes.
        write: Writes to the connection.

    Attributes:
        ended: Whether the peer has ended the stream.
    """

    def __init__(self, stream: Stream, *, window: int, limit: int, write: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._window = window
        self._limit = limit
        self._write = write
        # With the window to give back when it is taken; a message that came in pieces is still in pieces.
        self._messages: deque[tuple[bytes | list[bytes | memoryview], int]] = deque()
        self._chunks: list[bytes | memoryview] = []  # of the message that is still incomplete
        self._have = 0
        self._need = 0  # bytes until it is complete, prefix included; 0 while the prefix is not here
        self._unreturned = 0
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        self._error: Exception | None = None

    # --- from the connection ------------------------------------------------------------------------------------------

    def feed(self, data: bytes, start: int, stop: int) -> None:
        """Take the payload ``data[start:stop]`` of a DATA frame."""
        size = stop - start
        self._stream.data_received += size
        if self._have + size < self._need:  # somewhere within a large message
            self._chunks.append(memoryview(data)[start:stop])
            self._have += size
            self._return(size)
            return
        while start < stop and self._error is None:
            if not self._have and stop - start >= _PREFIX:
                # The usual case: a message begins here. If it is whole, it is cut out at once.
                end = start + self._size(data[start : start + _PREFIX])
                if self._error is not None:
                    break
                if end <= stop:
                    self._messages.append((data[start + _PREFIX : end], end - start))
                    start = end
                    continue
            start = self._collect(data, start, stop)
        if self._messages or self._error:
            self._wake()

    def _collect(self, data: bytes, start: int, stop: int) -> int:
        """Add to an incomplete message; return the position behind what was taken."""
        if not self._need:
            prefix = b"".join(self._chunks) + data[start : min(stop, start + _PREFIX - self._have)]
            if len(prefix) < _PREFIX:
                self._chunks, self._have = [prefix], len(prefix)
                return stop
            start += len(prefix) - self._have
            self._chunks, self._have, self._need = [], _PREFIX, self._size(prefix)
            if self._error is not None:
                return stop
        end = min(stop, start + self._need - self._have)
        self._chunks.append(memoryview(data)[start:end])
        self._have += end - start
        self._return(end - start)  # at once: a message larger than the window would wait for itself
        if self._have == self._need:
            self._messages.append((self._chunks, _PREFIX))
            self._chunks, self._have, self._need = [], 0, 0
        return end

    def _size(self, prefix: bytes) -> int:
        size = int.from_bytes(prefix[1:], "big")
        if prefix[0]:
            self._error = Internal("a compressed message came although none was asked for")
        elif size > self._limit:
            self._error = ResourceExhausted(f"a message of {size} bytes came; the limit is {self._limit}")
        return _PREFIX + size

    def add(self, data: bytes, ack_size: int) -> None:
        """Take data that went through h2 after all (padded frames)."""
        self._stream.connection.ack(self._id, ack_size)
        self.feed(data, 0, len(data))

    def eof(self) -> None:
        """Note that the peer has ended the stream."""
        self.ended = True
        self._stream.window_updated.set()  # who waits to send has nobody to send to
        self._wake()

    def unacked_size(self) -> int:
        """Return what h2 still has to acknowledge: nothing."""
        return 0

    # --- to the caller ------------------------------------------------------------------------------------------------

    def take(self) -> bytes | None:
        """Return the next message if it is here, else None."""
        message = self.take_pieces()
        return b"".join(message) if isinstance(message, list) else message

    def take_pieces(self) -> bytes | list[bytes | memoryview] | None:
        """Return the next message if it is here, in the pieces in which it came."""
        if self._messages:
            message, size = self._messages.popleft()
            self._return(size)
            return message
        if self._error is not None:
            raise self._error
        return None

    def take_all(self) -> list[bytes]:
        """Return every message that is here."""
        if not self._messages and self._error is not None:
            raise self._error
        taken, self._messages = self._messages, deque()
        self._return(sum(size for _, size in taken))
        return [b"".join(message) if isinstance(message, list) else message for message, _ in taken]

    @property
    def exhausted(self) -> bool:
        """Whether the stream has ended and nothing is left to take."""
        return self.ended and not self._messages and self._error is None

    async def wait(self) -> None:
        """Return when there is a message, an error, or the end."""
        if self._messages or self._error is not None or self.ended:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _return(self, size: int) -> None:
        """Give window back once half of it was used."""
        self._unreturned += size
        if self._unreturned * 2 >= self._window and not self.ended:
            self._write(_window_update(self._id, self._unreturned))
            self._unreturned = 0

    @property
    def _id(self) -> int:
        assert self._stream.id is not None
        return self._stream.id


class GatheringTransport:
    """A transport that sends in one go what is written within one turn of the event loop.

    h2 hands out one piece per frame; a unary call is two of them, and a thousand calls started together are thousands.
    A system call for each is most of what a call costs.

    Args:
        transport: asyncio's transport.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._flushes = False
        # Where bytes may go past asyncio, which copies what the socket does not take at once: not through TLS.
        socket = transport.get_extra_info("socket")
        plain = socket is not None and transport.get_extra_info("ssl_object") is None
        self._descriptor = socket.fileno() if plain else -1
        if plain:
            transport.set_write_buffer_limits(high=0)  # more is handed over when all is gone

    def write(self, data: bytes) -> None:
        """Send `data`, at the latest when the event loop comes round."""
        self._pieces.append(data)
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self.flush)

    def write_soon(self, data: bytes) -> None:
        """Send `data` a turn of the event loop later than `write`: with what who is woken in this one writes."""
        if not self._pieces:
            self._loop.call_soon(self._loop.call_soon, self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Send what was written so far."""
        self._flushes = False
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._transport.write(b"".join(pieces))

    def writelines(self, pieces: list[bytes | memoryview]) -> None:
        """Send `pieces` now, after what was written before, without joining them where that can be helped."""
        self.flush()
        transport = self._transport
        if self._descriptor >= 0 and not transport.get_write_buffer_size() and not transport.is_closing():
            with suppress(OSError):  # asyncio meets the same and ends the connection
                pieces = write_vector(self._descriptor, pieces)
        if pieces:
            transport.write(b"".join(pieces))

    def close(self) -> None:
        """Send the rest, then close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ReceivingProtocol(H2Protocol):
    """The HTTP/2 connection, with DATA frames of streams that have a `Receiver` taken past h2.

    Attributes:
        missing: Services and methods that the daemon at its other end has shown not to have.
    """

    _partial = b""
    _unreturned = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.missing: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by asyncio."""
        self._gathering = GatheringTransport(cast("asyncio.Transport", transport))
        super().connection_made(cast("Any", self._gathering))
        h2: Any = self.connection._connection
        h2.encoder = HeaderEncoder()
        h2._open_streams = StreamCount(h2)

    def data_received(self, data: bytes) -> None:
        """Take what the socket delivered; called by asyncio."""
        position = self._complete(data) if self._partial else 0
        if not self._partial:
            self._take(data, position)
        self._return()

    def _complete(self, data: bytes) -> int:
        """Put the frame together that the last delivery cut through; return the position in `data` behind it.

        Only that frame is copied, not all that came with its end.
        """
        position = max(min(_FRAME_HEADER - len(self._partial), len(data)), 0)
        self._partial += data[:position]
        if len(self._partial) < _FRAME_HEADER:
            return position
        size = int.from_bytes(self._partial[:3], "big")
        wanted = _FRAME_HEADER + size - len(self._partial) if size <= _MAX_FRAME else 0
        rest = data[position : position + wanted]
        frame, self._partial = self._partial + rest, b""
        self._take(frame, 0)
        return position + len(rest)

    def _take(self, data: bytes, position: int) -> None:
        """Hand `data` from `position` on to streams and to h2; keep an incomplete frame at its end.

        What h2 gets, it gets in one go: that it sees headers after the messages behind them is told nobody, since
        whoever waits for either is woken later.
        """
        passed = position
        end = len(data)
        streams = self.processor.streams
        others: list[bytes] = []
        while end - position >= _FRAME_HEADER:
            size = int.from_bytes(data[position : position + 3], "big")
            if size > _MAX_FRAME:
                position = end  # not HTTP/2, or not as agreed: h2 knows what to do
                break
            stop = position + _FRAME_HEADER + size
            if stop > end:
                break
            kind, flags = data[position + 3], data[position + 4]
            if kind == _DATA:
                stream = streams.get(int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFFFFFF)
                ours = stream is not None and isinstance(stream.buffer, Receiver)
                others.append(data[passed:position])
                if ours and not flags & (_PADDED | _END_STREAM):
                    cast("Any", stream).buffer.feed(data, position + _FRAME_HEADER, stop)
                    self._unreturned += size
                else:  # at once: what it holds must not come after what follows it
                    others.append(data[position:stop])
                    super().data_received(b"".join(others))
                    others = []
                passed = stop
            elif kind == _PING and size == 8 and not flags & _ACK:
                # grpc-go measures the path with a ping for every burst of data it sends.
                others.append(data[passed:position])
                self._gathering.write_soon(_PING_ACK + data[position + _FRAME_HEADER : stop])
                passed = stop
            position = stop
        others.append(data[passed:position])
        if rest := b"".join(others):
            super().data_received(rest)
        self._partial = data[position:]

    def _return(self) -> None:
        if self._unreturned * 4 >= self.config.http2_connection_window_size:
            self._write(_window_update(0, self._unreturned))
            self._unreturned = 0

    def _write(self, frame: bytes) -> None:
        if not self.connection.is_closing():
            self.connection._transport.write(frame)
