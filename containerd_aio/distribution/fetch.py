"""Objects of an image, from a registry into the content store: one by one, verified, labelled, resumed."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from containerd_aio._log import get_logger
from containerd_aio.distribution.hosts import is_local
from containerd_aio.distribution.manifests import (
    check_unambiguous,
    children,
    is_index,
    is_manifest,
    parse_json,
)
from containerd_aio.distribution.progress import Action, ProgressEvent
from containerd_aio.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from containerd_aio.services._alone import alone
from containerd_aio.services.content import ContentStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from containerd_aio.distribution._blob import BlobReader
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.services.content import ContentInfo
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.stubs import Services

_RANGES = 3

PARALLEL_FROM = 64 << 20
"""Bytes from which on a layer is fetched in several ranges at the same time."""

_MAX_LABEL = 4096

# How often the store has to make progress known: each call redraws a bar.
_REPORT_EVERY = 256 << 10


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much is done at the same time.

    Attributes:
        downloads: Blobs of one image.
        ranges: Ranges of one large layer; 1 fetches it in one request. Each takes 8 MiB of memory. None is 3, and 1 for a
            registry on this machine, where there is nothing to gain.
    """

    downloads: int = 3
    ranges: int | None = None

    def __post_init__(self) -> None:
        for name in ("downloads", "ranges"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} is {value}; at least 1 is needed")


class Fetcher:
    """Fetches the objects of one repository.

    Args:
        services: Says which daemon and namespace. Hold a lease.
        registry: The registry, open.
        repository: Where in it.
        limits: How much is done at the same time.
        progress: Called with each step.
        handler: Awaited with each object before it is fetched (Go: ``WithImageHandler``).
    """

    def __init__(
        self,
        services: Services,
        registry: Registry,
        repository: str,
        *,
        limits: FetchLimits,
        progress: ProgressCallback,
        handler: Callable[[Descriptor], Awaitable[object]] | None = None,
    ) -> None:
        self._services = services
        self._content = ContentStore(services)
        self._registry = registry
        self._repository = repository
        self._ranges = limits.ranges or (1 if is_local(registry.registry) else _RANGES)
        self._limiter = anyio.CapacityLimiter(limits.downloads)
        self._progress = progress
        self._handler = handler
        self._log = get_logger(__name__).bind(namespace=services.namespace)

    async def document(
        self, target: Descriptor, labels: Callable[[list[Descriptor]], Mapping[str, str]]
    ) -> tuple[dict[str, Any], list[Descriptor]]:
        """Fetch a manifest, index or config, and return it parsed, and what it refers to.

        Args:
            target: The document.
            labels: Returns the labels that keep the children.

        Raises:
            DataLoss: It is not what `target` says.
            InvalidArgument: It is malformed.
        """
        await self._announce(target)
        what = f"{target.media_type} {target.digest}"
        async with alone(self._services, "fetch", target.digest):
            data = target.data if _is_inline(target) else await self._stored(target)
            if data is None:
                async with self._limiter:
                    data = await self._registry.manifest(self._repository, target)
            value = parse_json(data, what)
            if is_index(target.media_type) or is_manifest(target.media_type):
                check_unambiguous(value, target.media_type, what)
            found = children(value, target.media_type, what)
            info = await self._info(target)
            wanted = dict(labels(found)) | self._source_label(info)
            await self._content.write(_ref(target), data, expected=target.digest, labels=wanted)
        self._step(Action.DONE if info is None else Action.EXISTS, target, target.size)
        return value, found

    async def blob(self, target: Descriptor) -> None:
        """Fetch a blob, unless it is there.

        Raises:
            NotFound: The registry does not have it.
            DataLoss: What it has is not what `target` says.
        """
        await self._announce(target)
        self._step(Action.WAITING, target)
        async with alone(self._services, "fetch", target.digest), self._limiter:
            info = await self._info(target)
            labels = self._source_label(info)
            if info is not None and await self._claim(target, labels):
                self._step(Action.EXISTS, target, target.size)
                return
            await self._download(target, labels)
            self._step(Action.DONE, target, target.size)

    async def _claim(self, target: Descriptor, labels: Mapping[str, str]) -> bool:
        """Put a blob that is there under our lease, and tell whether it still was there."""
        try:
            await self._content.write(
                _ref(target), _Never(), size=target.size, expected=target.digest, labels=labels
            )
        except _CollectedError:
            return False
        return True

    async def _announce(self, target: Descriptor) -> None:
        if target.size <= 0:
            raise InvalidArgument(f"{target.digest}: its descriptor says that it has {target.size} bytes")
        if self._handler is not None:
            await self._handler(target)

    async def _stored(self, target: Descriptor) -> bytes | None:
        """Return a document that is in the store, None if it is not; what is small is not fetched twice."""
        try:
            data = await self._content.read_all(target.digest)
        except NotFound:
            return None
        return data if len(data) == target.size else None

    async def _info(self, target: Descriptor) -> ContentInfo | None:
        try:
            return await self._content.info(target.digest)
        except NotFound:
            return None

    async def _download(self, target: Descriptor, labels: Mapping[str, str]) -> None:
        from containerd_aio.distribution._blob import BlobReader

        avoid: frozenset[str] = frozenset()
        while True:
            reader = BlobReader(self._registry, self._repository, target, avoid=avoid)
            try:
                await self._write(reader, target, labels)
            except FailedPrecondition as exc:
                # The digest is wrong, and the daemon has thrown it away: another host may have the right one.
                avoid |= reader.served
                error = DataLoss(
                    f"{', '.join(sorted(reader.served)) or self._registry.registry}: what was sent is not "
                    f"{target.digest}: {exc}"
                )
                left = BlobReader(self._registry, self._repository, target, avoid=avoid).has_hosts
                if not reader.served or not left:
                    raise error from exc
                self._log.warning("content refused", digest=target.digest, error=str(error))
            else:
                return

    async def _write(self, reader: BlobReader, target: Descriptor, labels: Mapping[str, str]) -> None:
        failures: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            source = _Source(reader, target, tasks, self._ranges, self._step)
            try:
                await self._content.write(
                    _ref(target), source, size=target.size, expected=target.digest, labels=labels
                )
            except Exception as exc:  # noqa: BLE001 - raised below, outside of the group
                failures.append(exc)
            tasks.cancel_scope.cancel()
        if failures:
            raise failures[0]

    def _step(self, action: Action, target: Descriptor, offset: int = 0) -> None:
        self._progress(ProgressEvent(action, target.digest, offset, target.size, target))

    def _source_label(self, info: ContentInfo | None) -> dict[str, str]:
        """Return the label that says from where a blob came, so that a push may have it mounted there."""
        key = source_label(self._registry.registry)
        known = "" if info is None else info.labels.get(key, "")
        value = append_source(known, self._repository)
        return {} if len(key) + len(value) > _MAX_LABEL or value == known else {key: value}


def source_label(registry: str) -> str:
    """Return the label that says in which repositories of a registry a blob was seen; Go leaves the port out."""
    return f"containerd.io/distribution.source.{urlsplit(f'//{registry}').hostname}"


def append_source(known: str, repository: str) -> str:
    """Return the value of a distribution-source label with one more repository (Go: appendDistributionSourceLabel)."""
    return ",".join(sorted({*filter(None, known.split(",")), repository}))


def _is_inline(target: Descriptor) -> bool:
    return target.data is not None and len(target.data) == target.size


def _ref(target: Descriptor) -> str:
    """Return the name of the ingest, which is Go's, so that either goes on with what the other has begun."""
    from containerd_aio.distribution.manifests import is_layer

    kind = "unknown"
    if is_index(target.media_type):
        kind = "index"
    elif is_manifest(target.media_type):
        kind = "manifest"
    elif is_layer(target.media_type):
        kind = "layer"
    elif target.media_type.endswith(("config.v1+json", "container.image.v1+json")):
        kind = "config"
    return f"{kind}-{target.digest}"


class _CollectedError(Exception):
    """The blob was there, and has been collected in this very moment."""


class _Never:
    """The data of a write that is only to put a blob under our lease."""

    async def read_from(self, offset: int) -> AsyncGenerator[bytes, None]:  # noqa: ARG002
        raise _CollectedError
        yield b""


class _Source:
    """A blob of a registry, from any offset on."""

    def __init__(
        self,
        reader: BlobReader,
        target: Descriptor,
        tasks: TaskGroup,
        ranges: int,
        step: Callable[[Action, Descriptor, int], None],
    ) -> None:
        self._reader = reader
        self._target = target
        self._tasks = tasks
        self._ranges = ranges
        self._step = step

    async def read_from(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `offset` on, and tell how far they have come."""
        from containerd_aio.distribution._blob import parallel_chunks

        target, position, told = self._target, offset, offset
        self._step(Action.DOWNLOADING, target, position)
        data = target.data
        if data is not None and len(data) == target.size:
            yield data[offset:]
            return
        if self._ranges > 1 and target.size - offset >= PARALLEL_FROM:
            chunks = parallel_chunks(self._tasks, self._reader, offset, target.size, ranges=self._ranges)
        else:
            chunks = self._reader.chunks(offset)
        async with aclosing(chunks):
            async for chunk in chunks:
                position += len(chunk)
                if position - told >= _REPORT_EVERY:
                    told = position
                    self._step(Action.DOWNLOADING, target, position)
                yield chunk
