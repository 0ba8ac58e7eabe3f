"""Pushing an image: what a registry lacks of it, blobs first, the name last (Go: ``Client.Push``)."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from containerd_aio.distribution.fetch import source_label
from containerd_aio.distribution.manifests import (
    children,
    is_index,
    is_manifest,
    is_non_distributable,
    read_document,
    resolve_manifest,
)
from containerd_aio.distribution.progress import Action, ProgressCallback, ProgressEvent, silent
from containerd_aio.distribution.pull import first_error
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.services.content import ContentStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.distribution.reference import Reference
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.distribution.upload import Uploader
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.stubs import Services

# A step is told for so many bytes at least: each redraws a bar.
_REPORT_EVERY = 256 << 10


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What is pushed, and how.

    Attributes:
        matches: Of an index, push only the manifest that suits best; None pushes the index and all that is in it.
        uploads: Blobs at the same time.
        chunk_size: Send blobs in requests of at most so many bytes; None sends each in one.
        skip_non_distributable: Leave out layers that must not be passed on, as ``ctr`` does.
        progress: Called with each step.
    """

    matches: Matcher | None = None
    uploads: int = 5
    chunk_size: int | None = None
    skip_non_distributable: bool = True
    progress: ProgressCallback = silent

    def __post_init__(self) -> None:
        if self.uploads < 1:
            raise InvalidArgument(f"uploads is {self.uploads}; at least 1 is needed")


async def push(
    services: Services, registry: Registry, reference: Reference, target: Descriptor, options: PushOptions
) -> Descriptor:
    """Push an image.

    Everything is looked for in the content store before anything is sent. The name is given at the very end, so nobody
    sees half an image under it.

    Args:
        services: Says which daemon and namespace.
        registry: The registry of `reference`, open.
        reference: What it is to be called there; without a tag it can be had by its digest only.
        target: The manifest or index.
        options: What is pushed.

    Returns:
        What the name names: `target`, or the manifest for the platform.

    Raises:
        NotFound: Content is missing here; the text says what, and what to do.
        Unauthenticated: Credentials are missing or refused.
        PermissionDenied: They are not enough.
        Unavailable: The registry or the daemon cannot be reached.
        InvalidArgument: `target` is neither an index nor a manifest, or the registry finds it invalid.
    """
    from containerd_aio.distribution.upload import Uploader

    uploader = Uploader(registry, reference.repository, chunk_size=options.chunk_size)
    content = ContentStore(services)
    if options.matches is not None:
        try:
            target = (await resolve_manifest(content, target, options.matches)).target
        except NotFound as exc:
            raise NotFound(
                f"{target.digest} cannot be pushed for that platform, which is not here: {exc.message}"
            ) from exc
    if reference.digest and reference.digest != target.digest:
        raise InvalidArgument(
            f"{reference} names another digest than that of what is pushed, {target.digest}"
        )
    work = _Push(content, uploader, registry.registry, reference.repository, options)
    await work.gather(target)
    with first_error():
        await work.send(target, reference.tag)
    options.progress(ProgressEvent(Action.DONE, str(reference), target=target))
    return target


class _Push:
    def __init__(
        self, content: ContentStore, uploader: Uploader, registry: str, repository: str, options: PushOptions
    ) -> None:
        self._content = content
        self._uploader = uploader
        self._source_label = source_label(registry)
        self._repository = repository
        self._options = options
        self._limiter = anyio.CapacityLimiter(options.uploads)
        # In the order in which they may be sent: what is referred to comes first.
        self._documents: dict[str, Descriptor] = {}
        self._blobs: dict[str, Descriptor] = {}
        self._mounts: dict[str, list[str]] = {}

    async def gather(self, target: Descriptor) -> None:
        """Find out what belongs to the image, and that it is here."""
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            raise InvalidArgument(
                f"{target.digest} is a {target.media_type!r}, neither an index nor a manifest"
            )
        missing: list[Descriptor] = []
        await self._walk(target, missing)
        if missing:
            names = ", ".join(f"{d.digest}{f' ({d.platform})' if d.platform else ''}" for d in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise NotFound(
                f"{target.digest} cannot be pushed, since some of its content is not here: {names}{more}; push one "
                f"platform, or fetch all of it first"
            )

    async def _walk(self, target: Descriptor, missing: list[Descriptor]) -> None:
        if target.digest in self._documents or target.digest in self._blobs:
            return
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            if self._options.skip_non_distributable and is_non_distributable(target.media_type):
                return
            await self._find(target, missing)
            self._blobs[target.digest] = target
            return
        try:
            document = await read_document(self._content, target)
        except NotFound:
            missing.append(target)
            return
        for child in children(document, target.media_type, f"{target.media_type} {target.digest}"):
            await self._walk(child, missing)
        self._documents[target.digest] = target

    async def _find(self, target: Descriptor, missing: list[Descriptor]) -> None:
        try:
            info = await self._content.info(target.digest)
        except NotFound:
            missing.append(target)
            return
        sources = info.labels.get(self._source_label, "").split(",")
        self._mounts[target.digest] = nearest(self._repository, [s for s in sources if s])

    async def send(self, target: Descriptor, tag: str) -> None:
        """Send everything that is lacking there."""
        async with anyio.create_task_group() as tasks:
            for blob in self._blobs.values():
                self._step(Action.WAITING, blob)
                tasks.start_soon(self._send_blob, blob)
        for document in self._documents.values():
            await self._send_document(document, tag if document.digest == target.digest else "")

    async def _send_blob(self, target: Descriptor) -> None:
        async with self._limiter:
            if await self._uploader.exists(target):
                self._step(Action.EXISTS, target, target.size)
                return
            told = 0

            def progress(sent: int) -> None:
                nonlocal told
                if sent - told >= _REPORT_EVERY or sent < told:
                    told = sent
                    self._step(Action.UPLOADING, target, sent)

            def source(offset: int) -> AsyncGenerator[bytes, None]:
                return self._read(target, offset)

            self._step(Action.UPLOADING, target)
            action = await self._uploader.push_blob(
                target, source, mount_from=self._mounts.get(target.digest, ()), progress=progress
            )
            self._step(action, target, target.size)

    async def _read(self, target: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._content.read(target.digest, offset=offset)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _send_document(self, target: Descriptor, tag: str) -> None:
        if await self._uploader.exists(target, tag=tag):
            self._step(Action.EXISTS, target, target.size)
            return
        self._step(Action.UPLOADING, target)
        await self._uploader.push_manifest(target, await self._content.read_all(target.digest), tag=tag)
        self._step(Action.DONE, target, target.size)

    def _step(self, action: Action, target: Descriptor, offset: int = 0) -> None:
        self._options.progress(ProgressEvent(action, target.digest, offset, target.size, target))


def nearest(repository: str, sources: Sequence[str]) -> list[str]:
    """Return the repositories from which a blob may be mounted, the one with the longest common path first.

    Args:
        repository: Where it is to come.
        sources: Where it is.
    """

    def common(source: str) -> int:
        count = 0
        for ours, theirs in zip(repository.split("/"), source.split("/"), strict=False):
            if ours != theirs:
                break
            count += 1
        return count

    return sorted((s for s in sources if s != repository), key=lambda s: (-common(s), s))[:1]
