"""One call of ``Content.Write``: an ingest opened, written to, and committed or left for later.

What a message means to containerd: the first one names the ingest and opens it; every one must carry the offset
reached so far, for offset 0 throws away what has come; a COMMIT may bring the last bytes along. The COMMIT closes our side
of the stream with it: the daemon ends the call right after its answer (which it repeats), and would otherwise reset the
stream under our hands.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from grpclib.const import Cardinality

from containerd_aio.api.containerd.services.content.v1 import (
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.errors import Internal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

_METHOD = "/containerd.services.content.v1.Content/Write"

# Messages on their way: while the daemon writes one to its disk, the next ones come.
_UNANSWERED = 8

# The daemon needs milliseconds; a frozen one must not hold up a cancelled caller for long.
_RELEASE_TIMEOUT = 5.0


class WriteCall:
    """An open ingest; made by `write_call`.

    Attributes:
        ref: Name of the ingest.
        opened: Whether the daemon has let us in: nobody else writes to this ingest.
        offset: Bytes that have come and were sent.
        status: The daemon's last answer.
        failed: Whether the call itself has failed.
    """

    def __init__(self, stream: Any, ref: str) -> None:
        self._stream = stream
        self._unanswered = 0
        self.ref = ref
        self.opened = False
        self.offset = 0
        self.status = WriteContentResponse()
        self.failed = False

    async def open(self, size: int | None, expected: str | None) -> None:
        """Open the ingest, and learn how far it has come.

        Raises:
            AlreadyExists: The blob `expected` is there; the ingest is gone.
            Unavailable: Somebody else writes to it.
        """
        request = WriteContentRequest(
            action=WriteAction.STAT, ref=self.ref, total=size or 0, expected=expected or ""
        )
        with self._watched():
            await self._send(request)
            await self._answers(0)
        self.opened = True
        self.offset = self.status.offset

    async def announce(self, expected: str) -> None:
        """Name the digest and end the call with it; where the blob is there, that puts it under our lease.

        Raises:
            AlreadyExists: It is there.
        """
        with self._watched():
            await self._send(WriteContentRequest(ref=self.ref, expected=expected), end=True)
            await self._answers(0)

    async def write(self, data: bytes) -> None:
        """Append `data`; it may still be on its way when this returns."""
        await checkpoint_if_cancelled()  # where the daemon's window has room, nothing below waits
        request = WriteContentRequest(action=WriteAction.WRITE, ref=self.ref, offset=self.offset, data=data)
        with self._watched():
            await self._send(request)
            self.offset += len(data)
            await self._answers(_UNANSWERED)

    async def settle(self) -> None:
        """Return when the daemon has taken all that was sent."""
        with self._watched():
            await self._answers(0)

    async def commit(
        self, *, size: int = 0, expected: str | None, labels: Mapping[str, str], data: bytes = b""
    ) -> str:
        """Make a blob of what has come, and of `data` after it; the call is over then.

        Args:
            size: How many bytes there must be in all; 0 for any number.
            expected: The digest it must have.
            labels: Labels of the blob.
            data: The last bytes.

        Returns:
            The digest.

        Raises:
            AlreadyExists: The blob is there already.
            FailedPrecondition: Size or digest are others.
        """
        request = WriteContentRequest(
            action=WriteAction.COMMIT,
            ref=self.ref,
            offset=self.offset,
            data=data,
            total=size,
            expected=expected or "",
            labels=dict(labels),
        )
        with self._watched():
            await self._send(request, end=True)
            await self._answers(0)
            async for _ in self._stream:
                pass
        return self.status.digest

    async def release(self) -> None:
        """End the call without a commit and wait until the daemon is done with it.

        Until then the ingest is locked, and an abort would meet a daemon that still writes to it.
        """
        with anyio.move_on_after(_RELEASE_TIMEOUT, shield=True), suppress(Exception):
            await self._stream.end()
            while await self._stream.recv_message() is not None:
                pass

    async def _send(self, request: WriteContentRequest, *, end: bool = False) -> None:
        await self._stream.send_message(request, end=end)
        self._unanswered += 1

    async def _answers(self, left: int) -> None:
        """Read the daemon's answers until not more than `left` are wanting."""
        while self._unanswered > left:
            reply: WriteContentResponse | None = await self._stream.recv_message()
            if reply is None:
                # The daemon has ended the call: its status says why.
                await self._stream.raise_status()
                raise Internal(f"write {self.ref}: containerd ended the stream without an answer")
            self.status = reply
            self._unanswered -= 1

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.failed = True
            raise


@asynccontextmanager
async def write_call(channel: Any, ref: str) -> AsyncIterator[WriteCall]:
    """Make a call of ``Content.Write`` and end it in good order: what is not committed stays for another try.

    An error that the call has not caused, such as one of whoever supplies the data, is raised after that end and is
    none of the call's.
    """
    failure: Exception | None = None
    async with channel.request(
        _METHOD, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse
    ) as stream:
        call = WriteCall(stream, ref)
        try:
            yield call
        except Exception as exc:
            if call.failed:
                raise
            failure = exc
            await call.release()
        except BaseException:
            await call.release()
            raise
        else:
            await call.release()
    if failure is not None:
        raise failure
