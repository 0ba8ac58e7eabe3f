"""Messages put together from DATA frames, without h2's machinery for every frame.

Flow control of those bytes is ours too. The connection's window is given back as bytes arrive, the stream's as its
messages are taken: an unread stream holds at most one window of memory and never stalls its neighbours.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from containerd_aio._transport.frames import window_update
from containerd_aio.errors import Internal, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib.protocol import Stream

_PREFIX = 5  # of a gRPC message: compressed flag, length


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
    def failure(self) -> Exception | None:
        """What is wrong with the next message."""
        return None if self._messages else self._error

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
            self._write(window_update(self._id, self._unreturned))
            self._unreturned = 0

    @property
    def _id(self) -> int:
        assert self._stream.id is not None
        return self._stream.id
