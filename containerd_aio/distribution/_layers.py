"""Layers packed in another way."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.distribution._compression import compressed, decompressed, detect, measured
from containerd_aio.errors import DataLoss
from containerd_aio.services._convert import unique_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from containerd_aio.distribution._compression import Compression
    from containerd_aio.services.content import ContentStore

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
"""Label of a layer's blob: the digest of the layer when it is not compressed."""


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer in the content store.

    Attributes:
        digest: Digest of the blob.
        size: Bytes of the blob.
        diff_id: Digest of what is in it when it is not compressed.
    """

    digest: str
    size: int
    diff_id: str


async def compression_of(content: ContentStore, digest: str) -> Compression:
    """Return how a blob is packed, from its first bytes.

    Raises:
        NotFound: There is no such blob.
    """
    async with aclosing(content.read(digest, size=4)) as chunks:
        return detect(b"".join([chunk async for chunk in chunks]))


async def repack(
    content: ContentStore, digest: str, compression: Compression, *, diff_id: str | None = None
) -> PackedLayer:
    """Write a layer packed as `compression` says; one that is known to be there already is not made again.

    Hold a lease.

    Args:
        content: Where the layer is.
        digest: The layer's blob.
        compression: What it is to be packed with.
        diff_id: What it must unpack to; None takes it as it is.

    Raises:
        NotFound: There is no such blob.
        InvalidArgument: It is damaged, or packed in a way that is not known.
        DataLoss: It does not unpack to `diff_id`.
    """
    if diff_id is not None and (known := await _known(content, diff_id, compression)) is not None:
        return known
    hasher = hashlib.sha256()
    count = _Count()
    ref = f"repack-{unique_name()}-{digest}"
    async with AsyncExitStack() as stack:
        packed = await stack.enter_async_context(aclosing(content.read(digest)))
        plain = await stack.enter_async_context(aclosing(decompressed(packed, what=f"layer {digest}")))
        hashed = await stack.enter_async_context(aclosing(measured(plain, hasher)))
        again = await stack.enter_async_context(aclosing(compressed(hashed, compression)))
        checked = _checked(measured(again, count), hasher, digest, diff_id)
        try:
            written = await content.write(ref, await stack.enter_async_context(aclosing(checked)))
        except BaseException:
            await content.discard(ref)
            raise
    found = f"sha256:{hasher.hexdigest()}"
    if compression != "none":
        await content.update_labels(written, {UNCOMPRESSED_LABEL: found})
    return PackedLayer(written, count.size, found)


async def _known(content: ContentStore, diff_id: str, compression: Compression) -> PackedLayer | None:
    """Return a blob of the store that is this layer packed so."""
    if compression == "none":
        infos = await content.list(f"digest=={diff_id}")
    else:
        infos = await content.list(f'labels."{UNCOMPRESSED_LABEL}"=={diff_id}')
    for info in infos:
        if await compression_of(content, info.digest) == compression:
            return PackedLayer(info.digest, info.size, diff_id)
    return None


class _Count:
    def __init__(self) -> None:
        self.size = 0

    def update(self, data: bytes) -> None:
        self.size += len(data)


async def _checked(
    chunks: AsyncGenerator[bytes, None], hasher: hashlib._Hash, digest: str, diff_id: str | None
) -> AsyncGenerator[bytes, None]:
    """Yield `chunks`, and refuse them at the end, before the commit, if the layer is not the one expected."""
    async with aclosing(chunks) as all_of_them:
        async for chunk in all_of_them:
            yield chunk
    found = f"sha256:{hasher.hexdigest()}"
    if diff_id is not None and found != diff_id:
        raise DataLoss(
            f"layer {digest} unpacks to {found} and the image config says {diff_id}; the image is inconsistent: build "
            f"or pull it again"
        )
