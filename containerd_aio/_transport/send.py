"""Sending of messages without h2's machinery for every DATA frame.

h2 copies a message frame by frame, several times over; of a large blob that is most of the work. Frames are therefore
cut here, as views of the message, and handed to the socket as they are. What h2 has to know is told to it: how much of
the flow-control windows was used, and the end of the stream, which is left to it altogether.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from grpclib.protocol import Stream

# Frames handed over together: a little more than a Unix socket takes at once.
_BATCH = 256 << 10

_FRAME = b"\x00\x00"  # type DATA, no flags


async def send_data(
    stream: Stream, pieces: Sequence[bytes | memoryview], *, end: bool, over: Callable[[], bool]
) -> None:
    """Send the concatenation of `pieces` on `stream`.

    Args:
        stream: The stream, whose headers were sent.
        pieces: What to send.
        end: End our side of the stream with it.
        over: Tells whether the peer has ended the call: then nobody wants the rest, and it is not sent.
    """
    h2: Any = stream._h2_connection
    size = sum(map(len, pieces))
    if size <= h2.max_outbound_frame_size:
        await stream.connection.write_ready.wait()
        if over():
            return
        if h2.local_flow_control_window(stream.id) >= size:
            _send_one(stream, b"".join(pieces), end)
            return
        pieces = [b"".join(pieces)]
    await _send_many(stream, pieces, size, end=end, over=over)


def _send_one(stream: Stream, data: bytes, end: bool) -> None:
    h2: Any = stream._h2_connection
    h2.send_data(stream.id, data, end_stream=end)
    stream._transport.write(h2.data_to_send())


async def _send_many(
    stream: Stream,
    pieces: Sequence[bytes | memoryview],
    size: int,
    *,
    end: bool,
    over: Callable[[], bool],
) -> None:
    h2: Any = stream._h2_connection
    cutter = _Cutter(stream.id or 0, pieces)
    left = size
    while left:
        await stream.connection.write_ready.wait()
        if over():
            return
        window = h2.local_flow_control_window(stream.id)
        if window <= 0:
            stream.window_updated.clear()
            await stream.window_updated.wait()
            continue
        count = min(window, left, _BATCH)
        frames = cutter.cut(count, h2.max_outbound_frame_size)
        # As H2Connection.send_data and H2Stream.send_data account for them.
        h2.outbound_flow_control_window -= count
        h2.streams[stream.id].outbound_flow_control_window -= count
        stream._transport.writelines(frames)
        left -= count
    if end:
        await stream.connection.write_ready.wait()
        if not over():
            _send_one(stream, b"", end=True)


class _Cutter:
    """Cuts a sequence of byte strings into DATA frames without copying it."""

    def __init__(self, stream_id: int, pieces: Sequence[bytes | memoryview]) -> None:
        self._id = stream_id.to_bytes(4, "big")
        self._rest = [memoryview(piece) for piece in reversed(pieces) if piece]

    def cut(self, size: int, largest: int) -> list[bytes | memoryview]:
        """Return the next `size` bytes, with the headers of frames of up to `largest` bytes between them."""
        out: list[bytes | memoryview] = []
        while size:
            frame = min(size, largest)
            out.append(frame.to_bytes(3, "big") + _FRAME + self._id)
            size -= frame
            while frame:
                piece = self._rest.pop()
                if len(piece) > frame:
                    self._rest.append(piece[frame:])
                    piece = piece[:frame]
                out.append(piece)
                frame -= len(piece)
        return out


def write_vector(descriptor: int, pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Write `pieces` to a non-blocking socket and return what it did not take.

    Raises:
        OSError: The socket is broken.
    """
    try:
        sent = os.writev(descriptor, pieces)
    except (BlockingIOError, InterruptedError):
        return pieces
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []
