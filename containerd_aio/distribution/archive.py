"""Images from archives: what ``docker save``, ``ctr image export`` and others write (Go: ``Client.Import``).

An archive may come from anywhere. What it says of itself (sizes, digests, names, links) is checked: a blob before it is
committed, everything else before the first image is made. What was committed by then goes with the lease.
"""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING

from containerd_aio.distribution._compression import decompressed
from containerd_aio.distribution._docker_archive import Blob, docker_entries
from containerd_aio.distribution._leases import own_lease
from containerd_aio.distribution._names import (
    NAME_ANNOTATION,
    REF_NAME_ANNOTATION,
    Naming,
    add_prefix,
    filter_prefix,
    name_images,
)
from containerd_aio.distribution._selection import matcher
from containerd_aio.distribution._source import opened, reported, size_of
from containerd_aio.distribution._tar import TarReader
from containerd_aio.distribution.manifests import (
    OCI_INDEX,
    check_unambiguous,
    children,
    gc_labels,
    is_index,
    is_layer,
    is_manifest,
    parse_json,
    read_document,
)
from containerd_aio.distribution.progress import Action, ProgressEvent, silent
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.services._convert import unique_name
from containerd_aio.services.content import READ_ALL_LIMIT, ContentStore
from containerd_aio.services.descriptor import Descriptor, check_digest
from containerd_aio.services.images import ImageRecord, ImageStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping

    from containerd_aio.distribution._selection import PlatformChoice
    from containerd_aio.distribution._source import ArchiveSource
    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.services.stubs import Services

__all__ = [
    "NAME_ANNOTATION",
    "REF_NAME_ANNOTATION",
    "add_prefix",
    "filter_prefix",
    "import_archive",
]

_IN_MEMORY = frozenset({"oci-layout", "index.json", "manifest.json"})

# Images have some dozens of blobs; archives with more files than this are not meant well.
_MOST_MEMBERS = 100_000

# An index of indexes is rare already.
_DEEPEST = 8


async def import_archive(
    services: Services,
    source: ArchiveSource,
    *,
    name: str | None = None,
    names: Callable[[str], str | None] | None = None,
    platform: PlatformChoice = None,
    all_platforms: bool = False,
    index_name: str | None = None,
    digest_names: str = "",
    skip_digest_of_named: bool = False,
    labels: Mapping[str, str] | None = None,
    skip_missing: bool = False,
    discard_layers: bool = False,
    compress: bool = False,
    max_size: int | None = None,
    progress: ProgressCallback = silent,
) -> list[ImageRecord]:
    """Import the images of an archive into containerd's content and image stores.

    The archive is a tar, plain or compressed with gzip or zstd, of an OCI image layout or of what older ``docker save``
    wrote. It is read once, from front to end, and never held in memory. Every blob is checked against its digest. It
    runs under the lease in force, or one of its own; when it fails or is cancelled, no image has been made and what has
    come is collected. Nothing is unpacked.

    Args:
        services: Says which daemon and namespace.
        source: Path of the archive, an open binary file, or its bytes as an asynchronous iterable (such as an anyio
            byte stream).
        name: For an image to which the archive gives at most a tag: its repository, or its full name.
        names: Instead of `name`: makes an image's name of what the archive's annotation for tags says, such as
            `add_prefix` and `filter_prefix` do; None means no name. A full name in the archive is not translated.
        platform: Of an image with several platforms import only the variants for these; by default this machine's.
        all_platforms: Import all of them.
        index_name: Make an image of this name for the archive's whole index as well.
        digest_names: Give every image the name ``<digest_names>@<digest>``, too.
        skip_digest_of_named: ... unless it has another name.
        labels: Labels of the image records.
        skip_missing: Take archives that lack some of the content that their indexes and manifests list.
        discard_layers: Let the layers be collected as soon as the lease ends: unpack the images before that.
        compress: Pack plain layers of Docker's older archives with gzip.
        max_size: Refuse archives that have, decompressed, more bytes than this.
        progress: Called as the archive is read, with its path, and at the end.

    Returns:
        The images, in the archive's order, the one for the index first.

    Raises:
        InvalidArgument: It is no such archive, it is damaged, cut short or incomplete, or has no image with a name;
            the text says what is wrong.
        NotFound: It has nothing for the platform.
        OSError: The file cannot be read.
    """
    if name is not None and names is not None:
        raise InvalidArgument("give name or names, not both")
    naming = Naming(
        given=None if name is None else parse_familiar(name),
        tagged=name is not None and ":" in name.rpartition("/")[2],
        translate=names,
        digests=digest_names,
        skip_digest_of_named=skip_digest_of_named,
        required=index_name is None,
    )
    matches = matcher(platform, all_platforms=all_platforms)
    label = str(source) if isinstance(source, str | PathLike) else "archive"
    async with AsyncExitStack() as stack:
        bytes_of_it = await stack.enter_async_context(opened(source))
        await stack.enter_async_context(own_lease(services))
        told = reported(bytes_of_it, progress, Action.READING, label, size_of(source))
        chunks = await stack.enter_async_context(aclosing(told))
        job = _Import(services, matches, skip_missing=skip_missing, discard_layers=discard_layers)
        layout = await job.read(chunks, max_size)
        entries = await job.entries(layout, compress=compress)
        kept = [e for e in entries if e.platform is None or matches(e.platform) is not None]
        if not kept:
            available = ", ".join(sorted({str(e.platform) for e in entries})) or "no image at all"
            raise NotFound(f"the archive has nothing for this platform; it has {available}")
        named = name_images(kept, naming)
        for entry in kept:
            await job.label_tree(entry)
        if index_name is not None:
            named.insert(0, (index_name, await job.write_index(layout, kept)))
        store = ImageStore(services)
        records = [await store.create_or_update(n, target, labels=labels) for n, target in named]
    progress(ProgressEvent(Action.DONE, label))
    return records


@dataclass(slots=True)
class _Layout:
    """What was found in the archive.

    Attributes:
        documents: Path -> content of the few files that steer an import.
        blobs: Path -> what went into the content store.
        links: Path -> target of links.
        seen: The first paths, for messages.
        count: How many members there were.
    """

    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    count: int = 0

    def add_document(self, path: str, data: bytes) -> None:
        """Keep one of the few files that steer an import."""
        if self.documents.setdefault(path, data) != data:
            raise _twice(path)

    def add_blob(self, path: str, blob: Blob) -> None:
        """Keep where a file went."""
        if self.blobs.setdefault(path, blob) != blob:
            raise _twice(path)


def _twice(path: str) -> InvalidArgument:
    # Whoever reads the first and whoever reads the last would import different images.
    return InvalidArgument(f"the archive has {path!r} twice, with different content")


async def _document(path: str, size: int, reader: TarReader) -> bytes:
    if size > READ_ALL_LIMIT:
        raise InvalidArgument(f"the archive's {path} has {size} bytes, which is absurd")
    return b"".join([chunk async for chunk in reader.data()])


class _Import:
    def __init__(
        self, services: Services, matches: Matcher, *, skip_missing: bool, discard_layers: bool
    ) -> None:
        self._content = ContentStore(services)
        self._matches = matches
        self._skip_missing = skip_missing
        self._discard_layers = discard_layers
        self._labelled: set[str] = set()
        # Of its own for each import: an ingest that somebody else left may not be what this archive has. The paths are
        # not used, they may be no text at all.
        self._prefix = f"import-{unique_name()}-"
        self._ingests = 0

    async def read(self, chunks: AsyncIterable[bytes], max_size: int | None) -> _Layout:
        """Read the archive to its end; its blobs go into the content store."""
        layout = _Layout()
        async with aclosing(decompressed(chunks)) as plain:
            reader = TarReader(plain, max_size=max_size)
            async with aclosing(reader.members()) as members:
                async for member in members:
                    path = member.path
                    layout.count += 1
                    if layout.count > _MOST_MEMBERS:
                        raise InvalidArgument(f"the archive has more than {_MOST_MEMBERS} files")
                    if len(layout.seen) < 5:
                        layout.seen.append(path)
                    if member.link:
                        layout.links[path] = member.link
                    elif member.is_file and path in _IN_MEMORY:
                        layout.add_document(path, await _document(path, member.size, reader))
                    elif member.is_file:
                        layout.add_blob(path, await self._ingest(path, member.size, reader))
        return layout

    async def _ingest(self, path: str, size: int, reader: TarReader) -> Blob:
        self._ingests += 1
        ref = f"{self._prefix}{self._ingests}"
        expected = digest_of_path(path)
        blob = _Blob(path, expected)
        async with aclosing(blob.read(reader)) as data:
            try:
                digest = await self._content.write(ref, data, size=size, expected=expected)
            except BaseException:
                await self._content.discard(ref)
                raise
            async for _ in data:  # it was there already: what the archive has is checked all the same
                pass
        return Blob(digest, size, blob.magic)

    async def entries(self, layout: _Layout, *, compress: bool) -> list[Descriptor]:
        """Return what the archive's index lists."""
        if "oci-layout" in layout.documents:
            version = parse_json(layout.documents["oci-layout"], "the archive's oci-layout").get(
                "imageLayoutVersion"
            )
            if version != "1.0.0":
                raise InvalidArgument(f"the archive is an OCI layout of version {version!r}; 1.0.0 is known")
            if "index.json" not in layout.documents:
                raise InvalidArgument("the archive is incomplete: an OCI layout without index.json")
            index = parse_json(layout.documents["index.json"], "the archive's index.json")
            check_unambiguous(index, OCI_INDEX, "the archive's index.json")
            return children(index, OCI_INDEX, "the archive's index.json")
        if "manifest.json" in layout.documents:
            return await docker_entries(
                self._content,
                layout.documents["manifest.json"],
                layout.blobs,
                layout.links,
                prefix=self._prefix,
                compress=compress,
            )
        raise InvalidArgument(
            f"the archive is no image: it has neither oci-layout nor manifest.json (it begins with "
            f"{', '.join(layout.seen) or 'nothing'}), or it was cut short"
        )

    async def label_tree(self, target: Descriptor, depth: int = 0) -> None:
        """Check that everything below `target` is there, and label it so that it is kept as long as `target` is."""
        if target.digest in self._labelled:
            return
        self._labelled.add(target.digest)
        what = f"{target.media_type} {target.digest}"
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            raise InvalidArgument(
                f"the archive's index lists {what}, which is neither an index nor a manifest"
            )
        if depth > _DEEPEST:
            raise InvalidArgument(f"the archive has indexes in indexes, more than {_DEEPEST} deep")
        try:
            await self._check_blob(target, "the archive's index")
            document = await read_document(self._content, target)
        except NotFound:
            if depth and self._skip_missing:
                return
            raise InvalidArgument(f"the archive is incomplete: {what} is missing") from None
        below = children(document, target.media_type, what)
        if is_index(target.media_type):
            below = [c for c in below if c.platform is None or self._matches(c.platform) is not None]
            if not below:
                raise NotFound(f"{what} has nothing for this platform; give platform or all_platforms")
            for child in below:
                await self.label_tree(child, depth + 1)
        else:
            await self._check_blobs(below, what)
        labels = gc_labels(target.media_type, below)
        if self._discard_layers:
            layers = {child.digest for child in below if is_layer(child.media_type)}
            labels = {label: digest for label, digest in labels.items() if digest not in layers}
        await self._content.update_labels(target.digest, labels)

    async def _check_blobs(self, targets: list[Descriptor], parent: str) -> None:
        for target in targets:
            try:
                await self._check_blob(target, parent)
            except NotFound:
                if not self._skip_missing:
                    raise InvalidArgument(
                        f"the archive is incomplete: {target.media_type} {target.digest} of {parent} is missing"
                    ) from None

    async def _check_blob(self, target: Descriptor, parent: str) -> None:
        info = await self._content.info(target.digest)
        if info.size != target.size:
            raise InvalidArgument(
                f"{parent} gives {target.digest} a size of {target.size}; the blob has {info.size} bytes"
            )

    async def write_index(self, layout: _Layout, kept: list[Descriptor]) -> Descriptor:
        """Put the archive's index itself into the content store."""
        data = layout.documents.get("index.json")
        if data is None:
            raise InvalidArgument("index_name needs an OCI layout; this archive is of Docker's older kind")
        digest = await self._content.write(self._prefix + "index", data, labels=gc_labels(OCI_INDEX, kept))
        return Descriptor(OCI_INDEX, digest, len(data))


class _Blob:
    """A member on its way into the content store.

    Attributes:
        magic: Its first bytes, once they have been read.
    """

    def __init__(self, path: str, expected: str | None) -> None:
        self._path = path
        self._expected = expected
        self.magic = b""

    async def read(self, reader: TarReader) -> AsyncGenerator[bytes, None]:
        """Yield its bytes, and refuse them at the end if they have another digest than the path says."""
        hasher = hashlib.sha256()
        async with aclosing(reader.data()) as data:
            async for chunk in data:
                self.magic = self.magic or chunk[:6]
                if self._expected is not None:
                    hasher.update(chunk)
                yield chunk
        if self._expected is not None and self._expected != f"sha256:{hasher.hexdigest()}":
            raise InvalidArgument(
                f"the archive is damaged: {self._path} has the digest sha256:{hasher.hexdigest()}"
            )


def digest_of_path(path: str) -> str | None:
    """Return the digest that a path in an OCI layout stands for; None for files that are no blobs.

    Raises:
        InvalidArgument: It is a blob's path with a digest that containerd can't keep.
    """
    parts = path.split("/")
    if len(parts) != 3 or parts[0] != "blobs":
        return None
    digest = check_digest(f"{parts[1]}:{parts[2]}")
    if parts[1] != "sha256":
        raise InvalidArgument(f"the archive has {path}; containerd keeps content by sha256 digests only")
    return digest
