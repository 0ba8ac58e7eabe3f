"""The HTTP/2 connection, with what is frequent taken past h2.

h2 builds objects, a log text and state transitions for each frame; on the event path, in bulk reads and in small calls that is
nearly all of the work. DATA frames of our streams and all frames of unary calls are therefore cut out of what the socket
delivers and taken apart here; every other frame goes to h2 untouched (docs/decisions/0004, benchmarks/bench_stream.py).
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from grpclib.protocol import EventsProcessor, H2Protocol
from h2.exceptions import ProtocolError

from containerd_aio._transport.exchange import KINDS, Exchanges
from containerd_aio._transport.frames import (
    ACK,
    DATA,
    END_STREAM,
    HEADER,
    MAX_SIZE,
    PADDED,
    PING,
    PING_ACK,
    WINDOW_UPDATE,
    window_update,
)
from containerd_aio._transport.gathering import GatheringTransport
from containerd_aio._transport.headers import HeaderDecoder, HeaderEncoder, StreamCount
from containerd_aio._transport.receive import Receiver


class _Processor(EventsProcessor):
    """grpclib's, whose end is that of the unary calls as well."""

    exchanges: Exchanges

    def close(self, reason: str = "Connection closed") -> None:
        super().close(reason)
        self.exchanges.terminate(reason)


class ReceivingProtocol(H2Protocol):
    """The HTTP/2 connection, with DATA frames of streams that have a `Receiver`, and unary calls, taken past h2.

    Attributes:
        exchanges: The unary calls under way.
        missing: Services and methods that the daemon at its other end has shown not to have.
    """

    processor: _Processor
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
        h2.decoder.decode = HeaderDecoder(h2.decoder.decode)
        self.exchanges = Exchanges(self.connection, self._gathering)
        h2._open_streams = StreamCount(h2, beside=self.exchanges.open)
        self.processor = _Processor(self.handler, self.connection)
        self.processor.exchanges = self.exchanges

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
        position = max(min(HEADER - len(self._partial), len(data)), 0)
        self._partial += data[:position]
        if len(self._partial) < HEADER:
            return position
        size = int.from_bytes(self._partial[:3], "big")
        wanted = HEADER + size - len(self._partial) if size <= MAX_SIZE else 0
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
        while end - position >= HEADER:
            size = int.from_bytes(data[position : position + 3], "big")
            if size > MAX_SIZE:
                position = end  # not HTTP/2, or not as agreed: h2 knows what to do
                break
            stop = position + HEADER + size
            if stop > end:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream_id = int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFFFFFF
            stream = streams.get(stream_id)
            if kind == DATA and stream is not None:
                if passed != position:
                    others.append(data[passed:position])
                if isinstance(stream.buffer, Receiver) and not flags & (PADDED | END_STREAM):
                    stream.buffer.feed(data, position + HEADER, stop)
                    self._unreturned += size
                else:  # at once: what it holds must not come after what follows it
                    others.append(data[position:stop])
                    self._hand_over(others)
                passed = stop
            elif kind in KINDS and stream is None and self.exchanges.concern(stream_id):
                if passed != position or others:  # first: headers are decoded in the order in which they came
                    others.append(data[passed:position])
                    self._hand_over(others)
                self._exchange(data, position, stop)
                passed = stop
            elif not stream_id and self._of_the_connection(kind, flags, data[position + HEADER : stop]):
                others.append(data[passed:position])
                passed = stop
            position = stop
        others.append(data[passed:position])
        self._hand_over(others)
        self._partial = data[position:]

    def _hand_over(self, others: list[bytes]) -> None:
        """Give h2 the frames `others`."""
        data = b"".join(others)
        others.clear()
        if data and not self.connection.is_closing():
            super().data_received(data)

    def _exchange(self, data: bytes, position: int, stop: int) -> None:
        """Take the frame ``data[position:stop]`` of a unary call."""
        if data[position + 3] == DATA:
            self._unreturned += stop - position - HEADER
        try:
            self.exchanges.take(data, position, stop)
        except ProtocolError:
            self.processor.close("Protocol error")

    def _of_the_connection(self, kind: int, flags: int, payload: bytes) -> bool:
        """Take what grpc-go sends with every reply; False is for h2."""
        if kind == PING and len(payload) == 8 and not flags & ACK:
            # It measures the path with a ping for every burst of data it sends.
            self._gathering.write_soon(PING_ACK + payload)
            return True
        if kind == WINDOW_UPDATE and len(payload) == 4:
            h2: Any = self.connection._connection
            size = int.from_bytes(payload, "big") & 0x7FFFFFFF
            if 0 < size <= h2.MAX_WINDOW_INCREMENT - h2.outbound_flow_control_window:
                h2.outbound_flow_control_window += size
                for stream in self.processor.streams.values():
                    stream.window_updated.set()
                return True
        return False

    def _return(self) -> None:
        if self._unreturned * 4 >= self.config.http2_connection_window_size:
            self._write(window_update(0, self._unreturned))
            self._unreturned = 0

    def _write(self, frame: bytes) -> None:
        if not self.connection.is_closing():
            self.connection._transport.write(frame)
