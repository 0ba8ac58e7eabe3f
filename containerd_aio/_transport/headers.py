"""Headers without the work that hpack does for each call anew.

Every call has nearly the same request headers. They are encoded once each, as literals that change no state, and put together
from then on; hpack searches its table for each of them, in Python, every time. The table costs more than it saves on a socket
of the same machine. Of replies, the blocks that come again and again are decoded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sized

# Values such as deadlines and leases come and go; the usual headers of a connection are a few dozen.
_REMEMBERED = 512

# What the first block of a connection begins with: our table has no room, whatever limit the peer may set for it.
_NO_TABLE = b"\x20"

_LITERAL = b"\x00"  # not indexed, with its name
_REFERENCE = 0x80  # and above: an entry of the table

# While h2 has no more streams than this, closed ones included, it need not look at each to know that another may be opened.
_FEW_STREAMS = 256


class HeaderEncoder:
    """Stands in for ``hpack.Encoder``.

    Attributes:
        header_table_size: Set by h2 to the peer's limit; without meaning here.
    """

    header_table_size = 0

    def __init__(self) -> None:
        self._encoded: dict[tuple[bytes | str, bytes | str], bytes] = {}
        self._begun = False

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: ARG002 - hpack's signature
        """Return the block of `headers`, pairs of bytes or of strings."""
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

    def forget(self) -> None:
        """Take note that the block that was returned last is not sent."""
        self._begun = False


def _string(text: bytes | str) -> bytes:
    """Return an HPACK string, not compressed (RFC 7541, sections 5.1 and 5.2)."""
    if isinstance(text, str):
        text = text.encode()
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


class HeaderDecoder:
    """Stands in for ``hpack.Decoder.decode``.

    A block of nothing but references to the table (RFC 7541, section 6.1) changes nothing, and it means the same again until a
    block comes that is something else. The headers and trailers of a call that succeeds are such blocks, but for the first.

    Args:
        decode: The decoder's own function.
    """

    def __init__(self, decode: Callable[..., Any]) -> None:
        self._decode = decode
        self._known: dict[bytes, Any] = {}

    def __call__(self, data: bytes, raw: bool = False) -> Any:
        """Return the headers of the block `data`, pairs of bytes if `raw`."""
        if raw and (known := self._known.get(data)) is not None:
            return known
        headers = self._decode(data, raw)
        if not data or min(data) < _REFERENCE or len(self._known) >= _REMEMBERED:
            self._known.clear()
        elif raw:
            self._known[data] = headers
        return headers


class StreamCount:
    """Stands in for ``H2Connection._open_streams``, which looks at every stream for each new one.

    Args:
        h2: The connection.
        beside: Streams that h2 does not know of.
    """

    def __init__(self, h2: Any, beside: Sized) -> None:
        self._h2 = h2
        self._beside = beside
        self._count = h2._open_streams

    def __call__(self, remainder: int) -> int:
        """Return how many streams are open, or, while they are few, at most are."""
        h2 = self._h2
        if len(h2.streams) < _FEW_STREAMS < h2.remote_settings.max_concurrent_streams:
            return len(h2.streams) + len(self._beside)
        count: int = self._count(remainder)  # also forgets those that are closed
        return count + len(self._beside)
