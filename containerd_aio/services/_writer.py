"""A blob written into the content store, whatever state its ingest is in."""

from __future__ import annotations

import hashlib
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import anyio

from containerd_aio.errors import (
    Aborted,
    AlreadyExists,
    ConnectError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from containerd_aio.services._chunks import pieces
from containerd_aio.services._ingest import write_call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Mapping

    from containerd_aio.services._ingest import WriteCall

# A locked ingest is tried again after 16 ms, then after twice as long each time, to this many seconds (Go: OpenWriter).
_RETRY_FIRST, _RETRY_LONGEST = 0.016, 2.048


@runtime_checkable
class Seekable(Protocol):
    """Data that can be had from any offset: a write that is resumed reads only what is wanting."""

    def read_from(self, offset: int) -> AsyncIterable[bytes]:
        """Yield the bytes from `offset` to the end."""


class LockRetry:
    """Waits between tries to open an ingest that somebody else writes to."""

    def __init__(self) -> None:
        self._longest = _RETRY_FIRST

    async def wait(self) -> None:
        """Wait for a random time, on average twice as long as the last one."""
        await anyio.sleep(random.uniform(0, self._longest))  # noqa: S311
        self._longest = min(self._longest * 2, _RETRY_LONGEST)


class Writer:
    """One write.

    Args:
        channel: The channel of the content stub.
        ref: Name of the ingest.
        size: Bytes to come, if known.
        expected: Their digest, if known.
        labels: Labels for the new blob.

    Attributes:
        existed: After `run`: the blob was there already, so `labels` were not set.
    """

    def __init__(
        self, channel: Any, ref: str, size: int | None, expected: str | None, labels: Mapping[str, str]
    ) -> None:
        self._channel = channel
        self._ref = ref
        self._size = size
        self._digest = expected
        self._announced = expected is not None
        self._labels = dict(labels)
        self.existed = False

    async def run(self, data: bytes | AsyncIterable[bytes] | Seekable) -> str:
        """Write `data` and return its digest; see `ContentStore.write`."""
        retry = LockRetry()
        while True:
            opened = False
            try:
                async with write_call(self._channel, self._ref) as call:
                    await call.open(self._size, self._digest)
                    opened = True
                    await self._fill(call, data)
            except AlreadyExists:
                if self._digest is None:
                    raise
                self.existed = True
                if not self._announced:
                    await self._claim()
            except ConnectError:
                raise
            except Unavailable:
                if opened:
                    raise
                # Somebody else writes to this ref; when they are done, it is either finished or ours to finish.
                await retry.wait()
                continue
            assert self._digest is not None
            return self._digest

    async def _claim(self) -> None:
        """Have containerd put a blob that was there under our lease, which it does only for a digest announced first."""
        try:
            async with write_call(self._channel, self._ref) as call:
                await call.announce(self._digest or "")
        except AlreadyExists:
            return
        raise Aborted(f"write {self._ref}: {self._digest} was there but is being collected; write again")

    async def _fill(self, call: WriteCall, data: bytes | AsyncIterable[bytes] | Seekable) -> None:
        last = b""
        # Another namespace has the blob and shares it, or all but the commit was done before: no bytes needed.
        complete = self._digest is not None and self._size is not None and 0 < self._size == call.offset
        if not complete:
            prefix = call.status.digest
            if isinstance(data, bytes) and not _begins_with(data, call.offset, prefix):
                call.offset = 0
            async with aclosing(self._from(data, call.offset, prefix)) as chunks:
                async for piece in chunks:
                    if last:
                        await call.write(last)
                    last = piece
        await call.commit(size=call.offset + len(last), expected=self._digest, labels=self._labels, data=last)

    def _from(
        self, data: bytes | AsyncIterable[bytes] | Seekable, offset: int, prefix: str
    ) -> AsyncGenerator[bytes, None]:
        if isinstance(data, Seekable):
            if self._digest is not None:  # containerd makes sure that what has come is the right beginning
                return self._checked(data.read_from(offset), 0, "", begun=offset)
            data = data.read_from(0)
        return self._checked(data, offset, prefix)

    async def _checked(
        self, data: bytes | AsyncIterable[bytes], offset: int, prefix: str, *, begun: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """Yield `data` from `offset` on, making sure that it is what was promised.

        Without a digest from the caller the bytes are hashed here, so that a resumed ingest can't end up as a mixture.
        `data` begins `begun` bytes after the blob.
        """
        hasher = hashlib.sha256()
        seen = begun
        async with aclosing(pieces(data)) as chunks:
            async for piece in chunks:
                fresh = piece
                if seen < offset:
                    head, fresh = piece[: offset - seen], piece[offset - seen :]
                    hasher.update(head)
                    if seen + len(head) == offset and prefix not in {"", f"sha256:{hasher.hexdigest()}"}:
                        raise self._mixed_up()
                if self._digest is None:
                    hasher.update(fresh)
                seen += len(piece)
                if self._size is not None and seen > self._size:
                    raise InvalidArgument(
                        f"write {self._ref}: more than the {self._size} bytes that were announced"
                    )
                if fresh:
                    yield fresh
        if seen < offset:
            raise self._mixed_up()
        if self._size is not None and seen != self._size:
            raise InvalidArgument(
                f"write {self._ref}: the data ended after {seen} of {self._size} announced bytes"
            )
        if self._digest is None:
            self._digest = f"sha256:{hasher.hexdigest()}"

    def _mixed_up(self) -> FailedPrecondition:
        return FailedPrecondition(
            f"write {self._ref}: the ingest of that name held other bytes than the data begins with; it was thrown away, "
            f"write again (and name an ingest after its content)"
        )


def _begins_with(data: bytes, offset: int, digest: str) -> bool:
    """Tell whether the first `offset` bytes of `data` may be the ones with this digest."""
    if offset > len(data):
        return False
    return not digest or digest == f"sha256:{hashlib.sha256(memoryview(data)[:offset]).hexdigest()}"
