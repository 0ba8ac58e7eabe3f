"""Images to archives: OCI image layouts that Docker reads as well (Go: core/images/archive.Export).

What goes into an archive is settled before its first byte is written; then blob after blob streams through, checked
against its digest, without temporary files.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from containerd_aio.distribution._compression import check_compression, compressed
from containerd_aio.distribution._leases import own_lease
from containerd_aio.distribution._names import NAME_ANNOTATION, REF_NAME_ANNOTATION
from containerd_aio.distribution._selection import chosen
from containerd_aio.distribution._source import reported, written
from containerd_aio.distribution.manifests import (
    OCI_INDEX,
    children,
    is_index,
    is_manifest,
    is_non_distributable,
    read_document,
)
from containerd_aio.distribution.platforms import default_platform, match_only
from containerd_aio.distribution.progress import Action, ProgressEvent, silent
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.errors import DataLoss, InvalidArgument, NotFound
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import Leases, Resource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence

    from containerd_aio.distribution._selection import PlatformChoice
    from containerd_aio.distribution._source import ArchiveSink
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.services.descriptor import Descriptor, Platform
    from containerd_aio.services.stubs import Services

__all__ = ["ExportOptions", "export_archive", "open_export"]

_SOURCE_LABEL = "containerd.io/distribution.source."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What of the images goes into an archive.

    Attributes:
        platform: Of an image with several platforms export the variant that suits each of these best; by default this
            machine's. The index itself is exported unchanged.
        all_platforms: Export all variants.
        docker_manifest: Write the ``manifest.json`` by which Docker before version 25 loads the archive.
        skip_missing: Leave out content that is not there instead of refusing.
        skip_non_distributable: Leave out layers that must not be passed on.
        compression: How the archive is packed: ``none``, ``gzip`` or ``zstd``.
    """

    platform: PlatformChoice = None
    all_platforms: bool = False
    docker_manifest: bool = True
    skip_missing: bool = False
    skip_non_distributable: bool = False
    compression: str = "none"


async def export_archive(
    services: Services,
    sink: ArchiveSink,
    targets: Iterable[tuple[str, Descriptor]],
    options: ExportOptions | None = None,
    *,
    progress: ProgressCallback = silent,
) -> int:
    """Write images to an archive.

    Nothing is written before it is known that everything is there. A file that is made here is removed when the export
    fails or is cancelled.

    Args:
        services: Says which daemon and namespace.
        sink: Path of the archive, an open binary file, or what has a coroutine method ``send(bytes)``.
        targets: Name, which may be empty, and manifest or index of each image.
        options: What of the images; `ExportOptions` has the defaults.
        progress: Called for each blob as it is written, and when it is.

    Returns:
        How many bytes the archive has.

    Raises:
        NotFound: Content is missing, or an index has nothing for the platform.
        InvalidArgument: A target is neither a manifest nor an index, or malformed.
        DataLoss: A stored blob has another digest or size than it should.
        OSError: The file cannot be written.
    """
    async with open_export(services, targets, options, progress=progress) as chunks:
        return await written(sink, chunks)


@asynccontextmanager
async def open_export(
    services: Services,
    targets: Iterable[tuple[str, Descriptor]],
    options: ExportOptions | None = None,
    *,
    progress: ProgressCallback = silent,
) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Give an archive as an asynchronous iterator of its bytes, for the length of a block.

    A lease keeps the content as long, also when the images are deleted meanwhile. Arguments and errors are those of
    `export_archive`; what is missing is told when the block is entered.
    """
    options = options or ExportOptions()
    compression = check_compression(options.compression)
    if options.platform is not None and options.all_platforms:
        raise InvalidArgument("give platform or all_platforms, not both")
    wanted = list(targets)
    if not wanted:
        raise InvalidArgument("there is nothing to export: name at least one image")
    async with own_lease(services) as held:
        for _, target in wanted:
            await Leases(services).add_resource(held, Resource("content", target.digest))
        plan = _Plan(ContentStore(services), options)
        for name, target in wanted:
            await plan.add(name, target)
        async with (
            aclosing(plan.chunks(progress)) as plain,
            aclosing(compressed(plain, compression)) as packed,
        ):
            yield packed


@dataclass(slots=True)
class _DockerItem:
    """What ``manifest.json`` says of one image."""

    config: str
    layers: list[str]
    tags: list[str] = field(default_factory=list)


class _Plan:
    """What goes into one archive."""

    def __init__(self, content: ContentStore, options: ExportOptions) -> None:
        self._content = content
        self._options = options
        self._platforms = chosen(options.platform) or [default_platform()]
        self._blobs: dict[str, int] = {}
        self._missing: set[str] = set()
        self._entries: list[dict[str, Any]] = []
        self._docker: dict[str, _DockerItem] = {}

    async def add(self, name: str, target: Descriptor) -> None:
        """Take an image in, with everything below it.

        Raises:
            NotFound: Content is missing, or there is nothing for the platform.
            InvalidArgument: It is neither a manifest nor an index, or malformed.
        """
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            raise InvalidArgument(
                f"cannot export {name or target.digest}: a {target.media_type!r} is neither a manifest nor an index"
            )
        best = await self._walk(target)
        info = await self._content.info(target.digest)
        sources = {k: v for k, v in info.labels.items() if k.startswith(_SOURCE_LABEL)}
        annotations = {**target.annotations, **sources, **_name_annotations(name)}
        self._entries.append(replace(target, annotations=annotations).to_json())
        if best is not None and best.digest in self._docker:
            self._tag(best.digest, name)

    def _tag(self, digest: str, name: str) -> None:
        try:
            familiar = parse_familiar(name).familiar if name else ""
        except InvalidArgument:
            return  # Docker could not have it under that name
        if familiar and "@" not in familiar:
            self._docker[digest].tags.append(familiar)

    async def _walk(self, target: Descriptor) -> Descriptor | None:
        """Take in a manifest or an index; return the manifest that is the best for the first platform."""
        if not await self._take(target):
            return None
        what = f"{target.media_type} {target.digest}"
        below = children(await read_document(self._content, target), target.media_type, what)
        if is_manifest(target.media_type):
            complete = all([await self._take(child) for child in below])
            if complete:
                config, *layers = (_path(child.digest) for child in below)
                self._docker.setdefault(target.digest, _DockerItem(config, layers))
            return target
        found = self._wanted(below)
        if not found:
            have = ", ".join(str(c.platform) for c in below if c.platform is not None) or "none"
            raise NotFound(f"{what} has nothing for the platforms to be exported; it has {have}")
        manifests = [await self._walk(child) for child in found]
        return next((m for m in manifests if m is not None), None)

    def _wanted(self, entries: list[Descriptor]) -> list[Descriptor]:
        """Return the entries of an index that go along, the best for the first platform first."""
        known = [e for e in entries if is_index(e.media_type) or is_manifest(e.media_type)]
        if self._options.all_platforms:
            first = self._best(default_platform(), known)
            return [*first, *(e for e in known if e not in first)]
        found: list[Descriptor] = []
        for platform in self._platforms:
            found += [e for e in self._best(platform, known) if e not in found]
        return found + [e for e in known if e.platform is None]

    @staticmethod
    def _best(platform: Platform, entries: Sequence[Descriptor]) -> list[Descriptor]:
        matches = match_only(platform)
        ranked = [(rank, e) for e in entries if e.platform and (rank := matches(e.platform)) is not None]
        least = min((rank for rank, _ in ranked), default=0)
        return [e for rank, e in ranked if rank == least]

    async def _take(self, target: Descriptor) -> bool:
        """Put a blob on the list; False if it is not there and may be left out."""
        if self._options.skip_non_distributable and is_non_distributable(target.media_type):
            return False
        if target.digest in self._blobs:
            return True
        try:
            info = await self._content.info(target.digest)
        except NotFound:
            if self._options.skip_missing:
                return False
            raise NotFound(
                f"cannot export: {target.media_type} {target.digest} is not in the content store; pull the image again "
                f"with all of its content, or skip what is missing"
            ) from None
        if info.size != target.size:
            raise DataLoss(
                f"{target.media_type} {target.digest} is said to have {target.size} bytes and has {info.size}"
            )
        self._blobs[target.digest] = info.size
        return True

    async def chunks(self, progress: ProgressCallback) -> AsyncGenerator[bytes, None]:
        """Yield the archive, and tell `progress` of each blob.

        Raises:
            DataLoss: A stored blob has another digest or size than it should.
        """
        yield _directory("blobs/")
        algorithms = sorted({digest.partition(":")[0] for digest in self._blobs})
        for algorithm in algorithms:
            yield _directory(f"blobs/{algorithm}/")
        for digest in sorted(self._blobs, key=_path):
            size = self._blobs[digest]
            yield _header(_path(digest), size)
            async with (
                aclosing(self._blob(digest)) as data,
                aclosing(reported(data, progress, Action.WRITING, digest, size)) as told,
            ):
                async for chunk in told:
                    yield chunk
            yield _padding(size)
            progress(ProgressEvent(Action.DONE, digest, size, size))
        for path, document in self._documents().items():
            yield _header(path, len(document)) + document + _padding(len(document))
        yield bytes(2 * tarfile.BLOCKSIZE)

    async def _blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        algorithm, _, expected = digest.partition(":")
        hasher = hashlib.new(algorithm)
        size = 0
        async with aclosing(self._content.read(digest)) as chunks:
            async for chunk in chunks:
                hasher.update(chunk)
                size += len(chunk)
                if size <= self._blobs[digest]:
                    yield chunk
        if size != self._blobs[digest] or hasher.hexdigest() != expected:
            raise DataLoss(f"content {digest} is damaged in the store: its {size} bytes have another digest")

    def _documents(self) -> Mapping[str, bytes]:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._entries}
        documents = {"index.json": _json(index)}
        items = [i for i in self._docker.values() if i.tags] or list(self._docker.values())[:1]
        if self._options.docker_manifest and items:
            documents["manifest.json"] = _json(
                [{"Config": i.config, "RepoTags": i.tags or None, "Layers": i.layers} for i in items]
            )
        return documents | {"oci-layout": _json({"imageLayoutVersion": "1.0.0"})}


def _name_annotations(name: str) -> dict[str, str]:
    if not name:
        return {}
    try:
        tag = parse_familiar(name).tag
    except InvalidArgument:
        tag = ""
    return {NAME_ANNOTATION: name, REF_NAME_ANNOTATION: tag or name}


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _directory(path: str) -> bytes:
    member = tarfile.TarInfo(path)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member.tobuf(tarfile.PAX_FORMAT)


def _header(path: str, size: int) -> bytes:
    member = tarfile.TarInfo(path)
    member.size, member.mode = size, 0o444
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
