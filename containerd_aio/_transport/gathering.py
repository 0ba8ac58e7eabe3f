"""Writing to the socket in few system calls."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from containerd_aio._transport.send import write_vector


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

    def write(self, data: bytes, *, at_once: bool = False) -> None:
        """Send `data`, at the latest when the event loop comes round; `at_once` if nobody else will write until then."""
        self._pieces.append(data)
        if at_once:
            self.flush()
        elif not self._flushes:
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
