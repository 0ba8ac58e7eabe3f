"""One write into the content store, message by message.

What a message means to containerd: the first one names the ingest and opens it; every one must carry the offset
reached so far, for offset 0 throws away what has come; a COMMIT may bring the last bytes along. The COMMIT closes our side
of the stream with it: the daemon ends the call right after its answer (which it repeats), and would otherwise reset the
stream under our hands.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import anyio
from grpclib.const import Cardinality

from containerd_aio.api.containerd.services.content.v1 import (
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.errors import (
    Aborted,
    AlreadyExists,
    ConnectError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Unavailable,
)
from containerd_aio.services._chunks import pieces

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Mapping

_METHOD = "/containerd.services.content.v1.Content/Write"

# A locked ingest is tried again after 16 ms, then after twice as long each time, to this many seconds (Go: OpenWriter).
_RETRY_FIRST, _RETRY_LONGEST = 0.016, 2.048

# The daemon needs milliseconds; a frozen one must not hold up a cancelled caller for long.
_RELEASE_TIMEOUT = 5.0


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
        self._opened = False
        self._failure: Exception | None = None
        self.existed = False

    async def run(self, data: bytes | AsyncIterable[bytes]) -> str:
        """Write `data` and return its digest; see `ContentStore.write`."""
        longest = _RETRY_FIRST
        while True:
            try:
                await self._attempt(data)
            except AlreadyExists:
                if self._digest is None:
                    raise
                self.existed = True
                if not self._announced:
                    await self._claim()
            except ConnectError:
                raise
            except Unavailable:
                if self._opened:
                    raise
                # Somebody else writes to this ref; when they are done, it is either finished or ours to finish.
                await anyio.sleep(random.uniform(0, longest))  # noqa: S311
                longest = min(longest * 2, _RETRY_LONGEST)
                continue
            if self._failure is not None:
                raise self._failure
            assert self._digest is not None
            return self._digest

    async def _claim(self) -> None:
        """Have containerd put a blob that was there under our lease, which it does only for a digest announced first."""
        try:
            async with self._channel.request(
                _METHOD, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse
            ) as stream:
                await self._exchange(
                    stream, WriteContentRequest(ref=self._ref, expected=self._digest or ""), end=True
                )
        except AlreadyExists:
            return
        raise Aborted(f"write {self._ref}: {self._digest} was there but is being collected; write again")

    async def _attempt(self, data: bytes | AsyncIterable[bytes]) -> None:
        async with self._channel.request(
            _METHOD, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse
        ) as stream:
            try:
                await self._talk(stream, data)
            except anyio.get_cancelled_exc_class():
                await self._release(stream)
                raise
            if self._failure is not None:
                await self._release(stream)

    async def _talk(self, stream: Any, data: bytes | AsyncIterable[bytes]) -> None:
        status = await self._exchange(
            stream,
            WriteContentRequest(
                action=WriteAction.STAT, ref=self._ref, total=self._size or 0, expected=self._digest or ""
            ),
        )
        self._opened = True
        offset = status.offset
        last = b""
        # Another namespace has the blob and shares it, or all but the commit was done before: no bytes needed.
        complete = self._digest is not None and self._size is not None and 0 < self._size == offset
        if not complete:
            if isinstance(data, bytes) and not _begins_with(data, offset, status.digest):
                offset = 0
            # What is wrong with the data is no failure of the call: it is raised after its orderly end.
            async with aclosing(self._checked(data, offset, status.digest)) as chunks:
                while (piece := await self._next(chunks)) is not None:
                    if last:
                        await self._exchange(
                            stream,
                            WriteContentRequest(
                                action=WriteAction.WRITE, ref=self._ref, offset=offset, data=last
                            ),
                        )
                        offset += len(last)
                    last = piece
            if self._failure is not None:
                return
        await self._exchange(
            stream,
            WriteContentRequest(
                action=WriteAction.COMMIT,
                ref=self._ref,
                offset=offset,
                data=last,
                total=offset + len(last),
                expected=self._digest or "",
                labels=self._labels,
            ),
            end=True,
        )
        async for _ in stream:
            pass

    async def _next(self, chunks: AsyncGenerator[bytes, None]) -> bytes | None:
        try:
            return await anext(chunks, None)
        except Exception as exc:  # noqa: BLE001 - whatever the source raises
            self._failure = exc
            return None

    async def _release(self, stream: Any) -> None:
        """End the call without a commit and wait until the daemon is done with it.

        Until then the ingest is locked, and an abort would meet a daemon that still writes to it.
        """
        with anyio.move_on_after(_RELEASE_TIMEOUT, shield=True), suppress(Exception):
            await stream.end()
            while await stream.recv_message() is not None:
                pass

    async def _checked(
        self, data: bytes | AsyncIterable[bytes], offset: int, prefix: str
    ) -> AsyncGenerator[bytes, None]:
        """Yield `data` from `offset` on, making sure that it is what was promised.

        Without a digest from the caller the bytes are hashed here, so that a resumed ingest can't end up as a mixture.
        """
        hasher = hashlib.sha256()
        seen = 0
        async with aclosing(pieces(data)) as chunks:
            async for piece in chunks:
                head, fresh = piece[: max(offset - seen, 0)], piece[max(offset - seen, 0) :]
                hasher.update(head)
                if head and seen + len(head) == offset and prefix not in {"", f"sha256:{hasher.hexdigest()}"}:
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

    async def _exchange(
        self, stream: Any, request: WriteContentRequest, *, end: bool = False
    ) -> WriteContentResponse:
        await stream.send_message(request, end=end)
        reply: WriteContentResponse | None = await stream.recv_message()
        if reply is None:
            # The daemon has ended the call: its status says why.
            if not end:
                await stream.end()
            await stream.recv_trailing_metadata()
            raise Internal(f"write {self._ref}: containerd ended the stream without an answer")
        return reply


def _begins_with(data: bytes, offset: int, digest: str) -> bool:
    """Tell whether the first `offset` bytes of `data` may be the ones with this digest."""
    if offset > len(data):
        return False
    return not digest or digest == f"sha256:{hashlib.sha256(memoryview(data)[:offset]).hexdigest()}"
