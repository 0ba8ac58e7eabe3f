"""A daemon in memory that says, frame by frame, what a test has written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import hpack

from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20

USUAL = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0"), ("grpc-message", "")]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(body: bytes, *, compressed: bool = False, size: int | None = None) -> bytes:
    return bytes((compressed,)) + (len(body) if size is None else size).to_bytes(4, "big") + body


class Peer(asyncio.Transport):
    """The other end of a connection.

    Attributes:
        answer: Called with the number of a stream when its request is complete; what it returns is sent.
        cuts: Sizes of the pieces in which that arrives, over and over; none for one piece.
        requests: Headers and message of each stream.
        resets: Streams that were reset, and why.
        returned: Window given back, by stream.
        writes: What was written, one for each system call.
    """

    def __init__(self, protocol: Any, answer: Callable[[Peer, int], bytes], settings: dict[int, int]) -> None:
        super().__init__()
        self.protocol = protocol
        self.answer = answer
        self.cuts: list[int] = []
        self.encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self.requests: dict[int, tuple[dict[str, str], bytes]] = {}
        self.resets: list[tuple[int, int]] = []
        self.returned: dict[int, int] = {}
        self.writes: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._unread, self._block, self._closing = b"", b"", False
        payload = b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in settings.items())
        self._loop.call_soon(self.send, frame(SETTINGS, 0, 0, payload))

    def send(self, data: bytes) -> None:
        """Deliver `data`, cut as it was asked for."""
        turn, position = 0, 0
        while position < len(data) and not self._closing:
            size = self.cuts[turn % len(self.cuts)] if self.cuts else len(data)
            self.protocol.data_received(data[position : position + size])
            position += size
            turn += 1

    def headers(self, stream: int, headers: list[tuple[str, str]], *, last: bool = False) -> bytes:
        return frame(HEADERS, END_HEADERS | last * END_STREAM, stream, self.encoder.encode(headers))

    def reply(self, stream: int, body: bytes) -> bytes:
        """A call that succeeds."""
        return (
            self.headers(stream, USUAL)
            + frame(DATA, 0, stream, message(body))
            + self.headers(stream, OK, last=True)
        )

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._unread += data
        self._unread = self._unread.removeprefix(_PREFACE)
        while len(self._unread) >= 9:
            size, kind, flags = int.from_bytes(self._unread[:3], "big"), self._unread[3], self._unread[4]
            stream, payload = int.from_bytes(self._unread[5:9], "big"), self._unread[9 : 9 + size]
            self._unread = self._unread[9 + size :]
            self._read(kind, flags, stream, payload)

    def _read(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags:
            self._loop.call_soon(self.send, frame(SETTINGS, 1, 0))
        elif kind == HEADERS:
            self._block = payload
        elif kind == CONTINUATION:
            self._block += payload
        if kind in {HEADERS, CONTINUATION} and flags & END_HEADERS:
            self.requests[stream] = dict(self._decoder.decode(self._block)), b""
        if kind == DATA:
            headers, body = self.requests[stream]
            self.requests[stream] = headers, body + payload
            if flags & END_STREAM:
                self._loop.call_soon(lambda: self.send(self.answer(self, stream)))
        elif kind == RST_STREAM:
            self.resets.append((stream, int.from_bytes(payload, "big")))
        elif kind == WINDOW_UPDATE:
            self.returned[stream] = self.returned.get(stream, 0) + int.from_bytes(payload, "big")

    def lose(self) -> None:
        """Break the connection."""
        self._closing = True
        self.protocol.connection_lost(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True


class PeerChannel(Channel):
    """A channel to a `Peer`, which is new for each connection."""

    peer: Peer

    def __init__(
        self, answer: Callable[[Peer, int], bytes], *, timeout: float = 5, **settings: dict[int, int]
    ) -> None:
        super().__init__(Address.parse("/in/memory"), timeout=timeout, connect_timeout=5)
        self._answer, self._peer_settings = answer, settings.get("settings", {})

    async def _create_connection(self) -> Any:
        protocol = self._protocol_factory()
        self.peer = Peer(protocol, self._answer, self._peer_settings)
        protocol.connection_made(self.peer)
        await self._await_settings(protocol)
        return protocol

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
