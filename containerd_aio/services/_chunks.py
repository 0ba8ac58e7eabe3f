"""Byte streams cut to size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

# Messages in this range keep the round trips of a write few, and are far from gRPC's 16 MiB.
SMALLEST, LARGEST = 256 << 10, 2 << 20


async def pieces(data: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield `data` in pieces of `SMALLEST` to `LARGEST` bytes; only the last may be smaller, and none is empty."""
    if isinstance(data, bytes):
        for at in range(0, len(data), LARGEST):
            yield data[at : at + LARGEST]
        return
    small: list[bytes] = []
    gathered = 0
    async for chunk in data:
        whole = chunk
        if small or len(chunk) < SMALLEST:
            small.append(chunk)
            gathered += len(chunk)
            if gathered < SMALLEST:
                continue
            whole, small, gathered = b"".join(small), [], 0
        for at in range(0, len(whole), LARGEST):
            yield bytes(whole[at : at + LARGEST])
    if gathered:
        yield b"".join(small)
