"""HTTP/2 frames, as far as they are read and written without h2 (RFC 9113, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = 9  # bytes before the payload: its size, the kind, the flags, the stream
MAX_SIZE = 16384  # of what we receive: the protocol's default, nothing else is announced

DATA, HEADERS, RST_STREAM, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 6, 8, 9

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x01, 0x01, 0x04, 0x08, 0x20

PING_ACK = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00"

_CANCEL = b"\x00\x00\x00\x08"  # error code


def window_update(stream_id: int, size: int) -> bytes:
    """Return the frame that gives `size` bytes of window back."""
    return b"\x00\x00\x04\x08\x00" + stream_id.to_bytes(4, "big") + size.to_bytes(4, "big")


def cancellation(stream_id: int) -> bytes:
    """Return the RST_STREAM frame by which we give a stream up."""
    return b"\x00\x00\x04\x03\x00" + stream_id.to_bytes(4, "big") + _CANCEL


def request(stream_id: int, block: bytes, pieces: Sequence[bytes], size: int) -> bytes:
    """Return a whole unary request: a HEADERS frame, and a DATA frame that ends our side of the stream.

    Args:
        stream_id: The new stream.
        block: The encoded headers; not larger than a frame may be.
        pieces: The message; with the prefix of gRPC not larger than a frame may be.
        size: Bytes in `pieces`.
    """
    stream = stream_id.to_bytes(4, "big")
    return b"".join((
        len(block).to_bytes(3, "big"), b"\x01\x04", stream, block,
        (size + 5).to_bytes(3, "big"), b"\x00\x01", stream, b"\0", size.to_bytes(4, "big"), *pieces,
    ))  # fmt: skip
