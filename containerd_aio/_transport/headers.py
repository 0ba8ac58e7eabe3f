"""Request headers without hpack's table, which costs more than it saves on a socket of the same machine.

Every call has nearly the same headers. They are encoded once each, as literals that change no state, and put together from
then on; hpack searches its table for each of them, in Python, every time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# Values such as deadlines and leases come and go; the usual headers of a connection are a few dozen.
_REMEMBERED = 512

# What the first block of a connection begins with: our table has no room, whatever limit the peer may set for it.
_NO_TABLE = b"\x20"

_LITERAL = b"\x00"  # not indexed, with its name

# While h2 has no more streams than this, closed ones included, it need not look at each to know that another may be opened.
_FEW_STREAMS = 256


class HeaderEncoder:
    """Stands in for ``hpack.Encoder``.

    Attributes:
        header_table_size: Set by h2 to the peer's limit; without meaning here.
    """

    header_table_size = 0

    def __init__(self) -> None:
        self._encoded: dict[tuple[bytes, bytes], bytes] = {}
        self._begun = False

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: ARG002 - hpack's signature
        """Return the block of `headers`, pairs of bytes."""
        parts = [] if self._begun else [_NO_TABLE]
        self._begun = True
        known = self._encoded
        for header in headers:
            name, value = header[0], header[1]
            part = known.get((name, value))
            if part is None:
                if len(known) >= _REMEMBERED:
                    known.clear()
                part = known[name, value] = _LITERAL + _string(name) + _string(value)
            parts.append(part)
        return b"".join(parts)


def _string(text: bytes) -> bytes:
    """Return an HPACK string, not compressed (RFC 7541, sections 5.1 and 5.2)."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    size -= 127
    out = bytearray((127,))
    while size >= 128:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + text


class StreamCount:
    """Stands in for ``H2Connection._open_streams``, which looks at every stream for each new one.

    Args:
        h2: The connection.
    """

    def __init__(self, h2: Any) -> None:
        self._h2 = h2
        self._count = h2._open_streams

    def __call__(self, remainder: int) -> int:
        """Return how many streams are open, or, while they are few, at most are."""
        h2 = self._h2
        if len(h2.streams) < _FEW_STREAMS < h2.remote_settings.max_concurrent_streams:
            return len(h2.streams)
        count: int = self._count(remainder)  # also forgets those that are closed
        return count
