"""Pulling an image: its tree into the content store, its layers into snapshots, its name into the image store.

What is fetched, in which order, and which labels hold it together is what containerd's Go client does (``Client.Pull`` and
``Client.Fetch``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio

from containerd_aio.distribution._leases import own_lease
from containerd_aio.distribution.fetch import Fetcher, FetchLimits
from containerd_aio.distribution.manifests import (
    DOCKER_CONFIG,
    OCI_CONFIG,
    gc_labels,
    is_index,
    is_layer,
    is_manifest,
    parse_manifest,
)
from containerd_aio.distribution.platforms import default_platform, match_only
from containerd_aio.distribution.progress import Action, ProgressCallback, ProgressEvent, silent
from containerd_aio.distribution.schema1 import CONVERTED_LABEL, convert_schema1, is_schema1
from containerd_aio.distribution.unpack import unpack
from containerd_aio.errors import InvalidArgument, NotFound, Unimplemented
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor, Platform
from containerd_aio.services.images import ImageRecord, ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_aio.distribution.manifests import ImageManifest
    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.distribution.reference import Reference
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.services.stubs import Services


# What has a platform and a root file system; Docker's first registries sent the config without a type of its own.
_CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class PullOptions:
    """What is pulled, and what is done with it.

    Attributes:
        matches: Which platforms; of an index every entry that matches is fetched.
        best_only: Of an index only the entry that matches best.
        unpack: Unpack what was fetched; with several platforms, the variant for `unpack_for`.
        unpack_for: The platform that is unpacked.
        snapshotter: Where to; None is the namespace's default.
        labels: Labels of the image; None leaves those that it has.
        all_metadata: Fetch manifests and configs of the other platforms as well, without layers.
        discard_layers: Do not keep the packed layers once they are unpacked.
        convert_schema1: Convert manifests of Docker's schema 1 instead of refusing them.
        limits: How much is done at the same time.
        handler: Awaited with each object before it is fetched.
        progress: Called with each step.
    """

    matches: Matcher = field(default_factory=lambda: match_only(default_platform()))
    best_only: bool = True
    unpack: bool = True
    unpack_for: Platform = field(default_factory=default_platform)
    snapshotter: str | None = None
    labels: Mapping[str, str] | None = None
    all_metadata: bool = False
    discard_layers: bool = False
    convert_schema1: bool = False
    limits: FetchLimits = field(default_factory=FetchLimits)
    handler: Callable[[Descriptor], Awaitable[object]] | None = None
    progress: ProgressCallback = silent

    def __post_init__(self) -> None:
        if self.discard_layers and not self.unpack:
            raise InvalidArgument("discard_layers needs unpack=True: nothing would be left of the layers")


async def pull(
    services: Services, registry: Registry, reference: Reference, options: PullOptions
) -> ImageRecord:
    """Pull an image through this process; the daemon only stores and unpacks.

    It runs under the lease in force, or one of its own. What is broken off can be gone on with: the next pull resumes.

    Args:
        services: Says which daemon and namespace.
        registry: The registry of `reference`, open.
        reference: The image.
        options: What is pulled.

    Returns:
        The record, new or changed.

    Raises:
        NotFound: There is no such image, or it has nothing for the platform.
        Unauthenticated: Credentials are missing or refused.
        PermissionDenied: They are not enough.
        Unavailable: The registry or the daemon cannot be reached.
        DataLoss: What was sent is not what was announced.
        Unimplemented: It is a manifest of Docker's schema 1, and `PullOptions.convert_schema1` is not set.
    """
    progress, name = options.progress, str(reference)
    async with own_lease(services):
        progress(ProgressEvent(Action.RESOLVING, name))
        target = await registry.resolve(reference.repository, reference.digest or reference.tag)
        progress(ProgressEvent(Action.RESOLVED, name, target=target))
        labels = options.labels
        if is_schema1(target.media_type):
            if not options.convert_schema1:
                raise Unimplemented(
                    f"{name} is a manifest of Docker's schema 1; push it anew with a current tool, or pull it with "
                    f"convert_schema1=True"
                )
            labels = {**(labels or {}), CONVERTED_LABEL: target.digest}
            target = await _converted(services, registry, reference.repository, target)
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            raise InvalidArgument(f"{name} is a {target.media_type!r}, neither an index nor a manifest")
        fetcher = Fetcher(
            services,
            registry,
            reference.repository,
            limits=options.limits,
            progress=progress,
            handler=options.handler,
        )
        work = _Pull(services, fetcher, options)
        with first_error():
            fetched = await work.tree(target, wanted=True)
        if not fetched:
            raise NotFound(
                f"{name} has nothing for the platform; it has {', '.join(sorted(work.seen)) or 'none'}"
            )
        record = await ImageStore(services).create_or_update(name, target, labels=labels)
        progress(ProgressEvent(Action.DONE, name, target=target))
        return record


async def _converted(
    services: Services, registry: Registry, repository: str, target: Descriptor
) -> Descriptor:
    """Fetch an image of schema 1 and return the OCI manifest that it becomes (Go: ``WithSchema1Conversion``)."""

    async def fetch(digest: str) -> AsyncGenerator[bytes, None]:
        blob = await registry.blob_info(repository, digest)
        async with registry.blob(repository, blob) as chunks:
            async for chunk in chunks:
                yield chunk

    manifest = await registry.manifest(repository, target)
    return await convert_schema1(ContentStore(services), manifest, fetch, digest=target.digest)


@contextmanager
def first_error() -> Iterator[None]:
    """Raise the first error itself where task groups have wrapped it."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__


class _Pull:
    def __init__(self, services: Services, fetcher: Fetcher, options: PullOptions) -> None:
        self._services = services
        self._fetcher = fetcher
        self._options = options
        self._unpacks = match_only(options.unpack_for)
        self.seen: set[str] = set()

    async def tree(self, target: Descriptor, *, wanted: bool) -> bool:
        """Fetch an object and what it refers to; tell whether there was something for the platform.

        Args:
            target: The object.
            wanted: It suits the platform, as far as is known; else only manifest and config are fetched.
        """
        if is_index(target.media_type):
            return await self._index(target)
        if is_manifest(target.media_type):
            return await self._manifest(target, wanted=wanted)
        await self._fetcher.blob(target)
        return False

    async def _index(self, target: Descriptor) -> bool:
        # Labels for all, fetched or not: an index keeps what may be fetched later.
        _, found = await self._fetcher.document(target, lambda kept: gc_labels(target.media_type, kept))
        self.seen.update(str(entry.platform) for entry in found if entry.platform is not None)
        results: list[bool] = []

        async def one(entry: Descriptor, *, wanted: bool) -> None:
            results.append(await self.tree(entry, wanted=wanted))

        chosen = choose(found, self._options.matches, best_only=self._options.best_only)
        async with anyio.create_task_group() as tasks:
            for entry in found:
                if entry in chosen:
                    tasks.start_soon(partial(one, entry, wanted=True))
                elif self._options.all_metadata:
                    tasks.start_soon(partial(one, entry, wanted=False))
        return any(results)

    async def _manifest(self, target: Descriptor, *, wanted: bool) -> bool:
        document, found = await self._fetcher.document(target, self._manifest_labels)
        manifest = parse_manifest(target, document)
        platform = Platform("", "")
        if manifest.config.media_type in _CONFIGS:
            config, _ = await self._fetcher.document(manifest.config, lambda _: {})
            platform = Platform.from_json(config)
        else:  # an artifact: its config may be anything
            await self._fetcher.blob(manifest.config)
        if platform.os:
            self.seen.add(str(platform))
        suits = wanted and (not platform.os or self._options.matches(platform) is not None)
        if not suits:
            return False
        rest = found[1:]
        if self._options.unpack and self._unpacks(platform) is not None:
            await self._unpack(manifest)
            rest = [d for d in rest if not is_layer(d.media_type)]
        async with anyio.create_task_group() as tasks:
            for child in rest:
                tasks.start_soon(self._fetcher.blob, child)
        return True

    def _manifest_labels(self, kept: list[Descriptor]) -> dict[str, str]:
        labels = gc_labels("", kept)
        if self._options.discard_layers:
            layers = {child.digest for child in kept if is_layer(child.media_type)}
            labels = {key: digest for key, digest in labels.items() if digest not in layers}
        return labels

    async def _unpack(self, manifest: ImageManifest) -> None:
        """Unpack the layers from the bottom up while those above are fetched; what is unpacked is not fetched."""
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        here: dict[str, anyio.Event] = {}

        async def fetch(layer: Descriptor) -> None:
            await self._fetcher.blob(layer)
            here[layer.digest].set()

        async with anyio.create_task_group() as tasks:

            async def need(layer: Descriptor) -> None:
                if layer.digest not in here:  # from this one on, all have to come
                    for each in layers[layers.index(layer) :]:
                        if each.digest not in here:
                            here[each.digest] = anyio.Event()
                            tasks.start_soon(fetch, each)
                await here[layer.digest].wait()

            await unpack(
                self._services,
                manifest,
                snapshotter=self._options.snapshotter,
                need=need,
                progress=self._options.progress,
            )


def choose(entries: list[Descriptor], matches: Matcher, *, best_only: bool) -> list[Descriptor]:
    """Return the entries of an index that are fetched.

    Entries that name no platform are fetched when none that names one suits (Go judges them by their config).

    Args:
        entries: All of them.
        matches: Which platforms.
        best_only: Only the one that suits best.
    """
    ranked = [
        (rank, n, entry)
        for n, entry in enumerate(entries)
        if entry.platform is not None and (rank := matches(entry.platform)) is not None
    ]
    unnamed = [entry for entry in entries if entry.platform is None]
    if not best_only:
        return [entry for _, _, entry in ranked] + unnamed
    return [min(ranked, key=lambda item: item[:2])[2]] if ranked else unnamed
