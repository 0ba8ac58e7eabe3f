"""Images from archives: what ``docker save``, ``ctr image export`` and others write (Go: ``Client.Import``)."""

from __future__ import annotations

import hashlib
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING

import anyio

from containerd_aio.distribution._docker_archive import Blob, docker_entries
from containerd_aio.distribution._tar import TarReader, decompressed
from containerd_aio.distribution.manifests import (
    OCI_INDEX,
    check_unambiguous,
    children,
    gc_labels,
    is_index,
    is_manifest,
    parse_json,
    read_document,
)
from containerd_aio.distribution.platforms import any_platform, default_platform, match_only
from containerd_aio.distribution.reference import Reference, parse_familiar
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.services._convert import unique_name
from containerd_aio.services.content import READ_ALL_LIMIT, ContentStore
from containerd_aio.services.descriptor import Descriptor, check_digest
from containerd_aio.services.images import ImageRecord, ImageStore
from containerd_aio.services.leases import lease

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Mapping

    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.services.descriptor import Platform
    from containerd_aio.services.stubs import Services

NAME_ANNOTATION = "io.containerd.image.name"
"""Annotation in an archive's index: full name of the image."""

REF_NAME_ANNOTATION = "org.opencontainers.image.ref.name"
"""Annotation in an archive's index: often only a tag."""

_CHUNK = 1 << 20
_IN_MEMORY = frozenset({"oci-layout", "index.json", "manifest.json"})


async def import_archive(
    services: Services,
    source: str | PathLike[str] | AsyncIterable[bytes],
    *,
    name: str | None = None,
    platform: Platform | None = None,
    all_platforms: bool = False,
    index_name: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[ImageRecord]:
    """Import the images of an archive into containerd's content and image stores.

    The archive is a tar, plain or compressed with gzip, of an OCI image layout or of what older ``docker save`` wrote.
    It is read once, from front to end, and never held in memory. Every blob is checked against its digest. It runs
    under the lease in force, or one of its own; when it fails or is cancelled, no image has been made and what has
    come is collected. Nothing is unpacked.

    Args:
        services: Says which daemon and namespace.
        source: Path of the archive, or its bytes as an asynchronous iterable (such as an anyio byte stream).
        name: For an image to which the archive gives at most a tag: its repository, or its full name.
        platform: Of an image with several platforms import only the variants for this; by default this machine's.
        all_platforms: Import all of them.
        index_name: Make an image of this name for the archive's whole index as well.
        labels: Labels of the image records.

    Returns:
        The images, in the archive's order.

    Raises:
        InvalidArgument: It is no such archive, it is damaged, cut short or incomplete, or has no image with a name;
            the text says what is wrong.
        NotFound: It has nothing for the platform.
        OSError: The file cannot be read.
    """
    if platform is not None and all_platforms:
        raise InvalidArgument("give platform or all_platforms, not both")
    reference = None if name is None else parse_familiar(name)
    matches = any_platform if all_platforms else match_only(platform or default_platform())
    async with _opened(source) as chunks, lease(services):
        job = _Import(services, matches)
        layout = await job.read(chunks)
        entries = await job.entries(layout)
        kept = [e for e in entries if e.platform is None or matches(e.platform) is not None]
        if not kept:
            available = ", ".join(sorted({str(e.platform) for e in entries})) or "no image at all"
            raise NotFound(f"the archive has nothing for this platform; it has {available}")
        named = name_images(
            kept,
            reference,
            tagged=name is not None and ":" in name.rpartition("/")[2],
            required=index_name is None,
        )
        for entry in kept:
            await job.label_tree(entry)
        if index_name is not None:
            named.insert(0, (index_name, await job.write_index(layout, kept)))
        store = ImageStore(services)
        return [await store.create_or_update(n, target, labels=labels) for n, target in named]


@dataclass(slots=True)
class _Layout:
    """What was found in the archive.

    Attributes:
        documents: Path -> content of the few files that steer an import.
        blobs: Path -> what went into the content store.
        links: Path -> target of symbolic links.
        seen: The first paths, for messages.
    """

    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)


class _Import:
    def __init__(self, services: Services, matches: Matcher) -> None:
        self._content = ContentStore(services)
        self._matches = matches
        # Of its own for each import: an ingest that somebody else left may not be what this archive has.
        self._prefix = f"import-{unique_name()}-"

    async def read(self, chunks: AsyncIterable[bytes]) -> _Layout:
        """Read the archive to its end; its blobs go into the content store."""
        layout = _Layout()
        async with aclosing(decompressed(chunks)) as plain:
            reader = TarReader(plain)
            async with aclosing(reader.members()) as members:
                async for member in members:
                    path = member.path
                    if len(layout.seen) < 5:
                        layout.seen.append(path)
                    if member.link:
                        layout.links[path] = member.link
                    elif member.is_file and path in _IN_MEMORY:
                        if member.size > READ_ALL_LIMIT:
                            raise InvalidArgument(
                                f"the archive's {path} has {member.size} bytes, which is absurd"
                            )
                        layout.documents[path] = b"".join([chunk async for chunk in reader.data()])
                    elif member.is_file:
                        layout.blobs[path] = await self._ingest(path, member.size, reader)
        return layout

    async def _ingest(self, path: str, size: int, reader: TarReader) -> Blob:
        ref = self._prefix + path
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

    async def entries(self, layout: _Layout) -> list[Descriptor]:
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
                self._content, layout.documents["manifest.json"], layout.blobs, layout.links
            )
        raise InvalidArgument(
            f"the archive is no image: it has neither oci-layout nor manifest.json (it begins with "
            f"{', '.join(layout.seen) or 'nothing'}), or it was cut short"
        )

    async def label_tree(self, target: Descriptor) -> None:
        """Check that everything below `target` is there, and label it so that it is kept as long as `target` is."""
        what = f"{target.media_type} {target.digest}"
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            raise InvalidArgument(
                f"the archive's index lists {what}, which is neither an index nor a manifest"
            )
        try:
            document = await read_document(self._content, target)
        except NotFound as exc:
            raise InvalidArgument(f"the archive is incomplete: {what} is missing") from exc
        below = children(document, target.media_type, what)
        if is_index(target.media_type):
            below = [c for c in below if c.platform is None or self._matches(c.platform) is not None]
            if not below:
                raise NotFound(f"{what} has nothing for this platform; give platform or all_platforms")
            for child in below:
                await self.label_tree(child)
        else:
            for child in below:
                await self._check_blob(child, what)
        await self._content.update_labels(target.digest, gc_labels(target.media_type, below))

    async def _check_blob(self, target: Descriptor, parent: str) -> None:
        try:
            info = await self._content.info(target.digest)
        except NotFound as exc:
            raise InvalidArgument(
                f"the archive is incomplete: {target.media_type} {target.digest} of {parent} is missing"
            ) from exc
        if info.size != target.size:
            raise InvalidArgument(
                f"{parent} gives {target.digest} a size of {target.size}; the blob has {info.size} bytes"
            )

    async def write_index(self, layout: _Layout, kept: list[Descriptor]) -> Descriptor:
        """Put the archive's index itself into the content store."""
        data = layout.documents.get("index.json")
        if data is None:
            raise InvalidArgument("index_name needs an OCI layout; this archive is of Docker's older kind")
        digest = await self._content.write(
            self._prefix + "index.json", data, labels=gc_labels(OCI_INDEX, kept)
        )
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


def name_images(
    entries: list[Descriptor], given: Reference | None, *, tagged: bool, required: bool = True
) -> list[tuple[str, Descriptor]]:
    """Return the names of the images to be made, and what each names.

    The full name in the archive counts; else a name in the annotation for tags, if it is more than a tag; else what
    the caller gave, with the archive's tag if the caller gave none.

    Args:
        entries: What the archive's index lists.
        given: What the caller called it.
        tagged: The caller gave a tag, too.
        required: Refuse an archive of which no image gets a name.

    Raises:
        InvalidArgument: No image has a name, or several would get the same.
    """
    named: list[tuple[str, Descriptor]] = []
    for entry in entries:
        name = entry.annotations.get(NAME_ANNOTATION, "")
        ref_name = entry.annotations.get(REF_NAME_ANNOTATION, "")
        if not name and "/" in ref_name:
            name = str(parse_familiar(ref_name))
        elif not name and given is not None:
            tag = given.tag if tagged or not ref_name else ref_name
            name = str(Reference(given.registry, given.repository, tag))
        if name:
            named.append((name, Descriptor(entry.media_type, entry.digest, entry.size)))
    if required and not named:
        raise InvalidArgument(
            "the archive does not name its image; give name=, such as docker.io/library/app:1.0"
        )
    twice = {name for name, target in named if any(n == name and t != target for n, t in named)}
    if twice:
        raise InvalidArgument(f"several images of the archive would get the name {', '.join(sorted(twice))}")
    return named


@asynccontextmanager
async def _opened(
    source: str | PathLike[str] | AsyncIterable[bytes],
) -> AsyncGenerator[AsyncIterable[bytes], None]:
    """Give the bytes of `source`, whose file is closed at the end."""
    if isinstance(source, str | PathLike):
        async with await anyio.open_file(fspath(source), "rb") as file:

            async def chunks() -> AsyncGenerator[bytes, None]:
                while data := await file.read(_CHUNK):
                    yield data

            async with aclosing(chunks()) as bytes_of_file:
                yield bytes_of_file
    elif hasattr(source, "__aiter__"):
        yield source
    else:
        raise InvalidArgument(
            f"cannot import from a {type(source).__name__}; give a path or an asynchronous iterable of bytes"
        )
