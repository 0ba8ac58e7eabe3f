"""An ingest, written step by step."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from containerd_aio.errors import ConnectError, FailedPrecondition, InvalidArgument, Unavailable
from containerd_aio.services._chunks import LARGEST
from containerd_aio.services._ingest import write_call
from containerd_aio.services._writer import LockRetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Any

    from containerd_aio.services._ingest import WriteCall


class ContentWriter:
    """An open ingest; made by `ContentStore.writer`. Nobody else can write to it meanwhile.

    What was written stays when the block is left without a commit, for another try (Go: ``content.Writer``).

    Attributes:
        ref: Name of the ingest.
    """

    def __init__(self, call: WriteCall, expected: str | None) -> None:
        self._call = call
        self._expected = expected
        self._committed = False
        self.ref = call.ref

    def __repr__(self) -> str:
        return f"<ContentWriter {self.ref} at {self.offset}>"

    @property
    def offset(self) -> int:
        """How many bytes the ingest has: those that were there when it was opened, and those written since."""
        return self._call.offset

    async def digest(self) -> str:
        """Return the digest of what the ingest has, once the daemon has taken it all; ``""`` where it does not say.

        Raises:
            ContainerdError: A write that was on its way has failed.
        """
        await self._call.settle()
        return self._call.status.digest

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`. It may still be on its way when this returns: an error may come with a later call.

        `data` must not be changed before the ingest was settled by `digest` or `commit`.

        Raises:
            FailedPrecondition: The writer has committed.
            ContainerdError: A write has failed.
        """
        self._check()
        whole = memoryview(data).cast("B")
        for at in range(0, len(whole), LARGEST):
            piece = (
                data if len(whole) <= LARGEST and isinstance(data, bytes) else bytes(whole[at : at + LARGEST])
            )
            await self._call.write(piece)

    async def truncate(self, size: int = 0) -> None:
        """Throw away what the ingest has; the next write begins anew.

        Raises:
            InvalidArgument: `size` is neither 0 nor what there is: containerd can do nothing else.
            FailedPrecondition: The writer has committed.
        """
        self._check()
        await self._call.settle()
        if size not in {0, self.offset}:
            raise InvalidArgument(
                f"cannot cut an ingest of {self.offset} bytes to {size}: containerd can only begin it anew (0)"
            )
        self._call.offset = size

    async def commit(
        self, *, size: int = 0, expected: str | None = None, labels: Mapping[str, str] | None = None
    ) -> str:
        """Make a blob of what was written, and end the ingest.

        Args:
            size: How many bytes there must be; 0 for any number.
            expected: The digest it must have; by default the one it was opened with.
            labels: Labels of the blob; not set on one that is there already.

        Returns:
            The digest.

        Raises:
            AlreadyExists: The blob is there already; the ingest is gone.
            FailedPrecondition: Size or digest are others, or the writer has committed before. The ingest stays.
        """
        self._check()
        self._committed = True
        return await self._call.commit(size=size, expected=expected or self._expected, labels=labels or {})

    def _check(self) -> None:
        if self._committed:
            raise FailedPrecondition(f"the writer of {self.ref} has committed: open another one")


@asynccontextmanager
async def open_writer(
    channel: Any, ref: str, size: int | None, expected: str | None
) -> AsyncIterator[ContentWriter]:
    """Open an ingest, waiting while somebody else writes to it; see `ContentStore.writer`."""
    retry = LockRetry()
    while True:
        opened = False
        try:
            async with write_call(channel, ref) as call:
                await call.open(size, expected)
                opened = True
                yield ContentWriter(call, expected)
        except ConnectError:
            raise
        except Unavailable:
            if opened:
                raise
            await retry.wait()
        else:
            return
