"""How much of an image is here, and how much room it takes (Go: images.Check and images/usage)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.distribution.manifests import (
    children,
    is_index,
    is_manifest,
    read_document,
    resolve_manifest,
)
from containerd_aio.errors import NotFound
from containerd_aio.services.content import ContentStore
from containerd_aio.services.snapshots import Snapshotter

if TYPE_CHECKING:
    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.services.content import ContentInfo
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.stubs import Services

_SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What of an image's content is in the content store, for one platform.

    Attributes:
        required: What it takes: config and layers; only the image's target when the manifest is not there.
        present: Those that are there.
        missing: Those that are not.
    """

    required: tuple[Descriptor, ...]
    present: tuple[Descriptor, ...]
    missing: tuple[Descriptor, ...]

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return not self.missing

    @property
    def size(self) -> int:
        """Bytes of what is required."""
        return sum(descriptor.size for descriptor in self.required)

    @property
    def present_size(self) -> int:
        """Bytes of what is there."""
        return sum(descriptor.size for descriptor in self.present)


async def check(services: Services, target: Descriptor, matches: Matcher) -> ImageCheck:
    """Return what of an image's content is there.

    Args:
        services: Says which daemon and namespace.
        target: The image's manifest or index.
        matches: The platform that is asked about.

    Raises:
        InvalidArgument: A document is malformed.
    """
    content = ContentStore(services)
    try:
        manifest = await resolve_manifest(content, target, matches)
    except NotFound:
        return ImageCheck((target,), (), (target,))
    required = (manifest.config, *manifest.layers)
    present = [await content.exists(descriptor.digest) for descriptor in required]
    return ImageCheck(
        required,
        tuple(d for d, there in zip(required, present, strict=True) if there),
        tuple(d for d, there in zip(required, present, strict=True) if not there),
    )


async def usage(
    services: Services,
    target: Descriptor,
    matches: Matcher,
    *,
    manifest_limit: int | None = 1,
    snapshots: bool = False,
    declared: bool = False,
) -> int:
    """Return how many bytes an image takes; content that it refers to more than once counts once.

    Args:
        services: Says which daemon and namespace.
        target: The image's manifest or index.
        matches: Says which manifests of an index come first.
        manifest_limit: How many manifests of an index count; 0 counts all, and they must be there; None counts those
            that are there.
        snapshots: Count the snapshots of its layers, too.
        declared: Count what manifests and indexes say instead of what is stored.

    Raises:
        NotFound: Content is missing.
        InvalidArgument: A document is malformed.
    """
    count = _Count(services, matches, manifest_limit, snapshots=snapshots, declared=declared)
    return await count.of(target)


class _Count:
    def __init__(
        self, services: Services, matches: Matcher, limit: int | None, *, snapshots: bool, declared: bool
    ) -> None:
        self._services = services
        self._content = ContentStore(services)
        self._matches = matches
        self._limit = limit
        self._snapshots = snapshots
        self._declared = declared
        self._seen: set[str] = set()

    async def of(self, target: Descriptor) -> int:
        """Return the bytes of `target` and what is below it, as far as it was not counted yet."""
        if target.digest in self._seen:
            return 0
        self._seen.add(target.digest)
        try:
            info = await self._content.info(target.digest)
        except NotFound:
            if self._limit is not None and not self._declared:
                raise
            return target.size if self._declared else 0
        size = target.size if self._declared else info.size
        if self._snapshots:
            size += await self._snapshots_of(info)
        if is_index(target.media_type) or is_manifest(target.media_type):
            what = f"{target.media_type} {target.digest}"
            below = children(await read_document(self._content, target), target.media_type, what)
            for child in self._counting(target, below):
                size += await self.of(child)
        return size

    def _counting(self, target: Descriptor, below: list[Descriptor]) -> list[Descriptor]:
        """Return the children that count: of an index the best ones, up to the limit."""
        if not is_index(target.media_type) or not self._limit:
            return below

        def rank(entry: Descriptor) -> int:
            found = None if entry.platform is None else self._matches(entry.platform)
            return 1 << 30 if found is None else found

        return sorted(below, key=rank)[: self._limit]

    async def _snapshots_of(self, info: ContentInfo) -> int:
        size = 0
        for label, name in info.labels.items():
            if not label.startswith(_SNAPSHOT_LABEL):
                continue
            snapshotter = Snapshotter(self._services, label.removeprefix(_SNAPSHOT_LABEL).partition("/")[0])
            while name and (key := f"{snapshotter.name} {name}") not in self._seen:
                self._seen.add(key)
                size += (await snapshotter.usage(name)).size
                name = (await snapshotter.stat(name)).parent  # noqa: PLW2901 - up the chain
        return size
