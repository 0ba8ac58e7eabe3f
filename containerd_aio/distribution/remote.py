"""What `Client.pull`, `Client.fetch` and `Client.push` do: a name and options into a registry and a piece of work."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from containerd_aio.distribution._selection import PlatformChoice, chosen, matcher
from containerd_aio.distribution.fetch import FetchLimits
from containerd_aio.distribution.platforms import default_platform, match_any, match_only
from containerd_aio.distribution.progress import silent
from containerd_aio.distribution.pull import PullOptions, pull
from containerd_aio.distribution.reference import Reference, parse_familiar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from os import PathLike

    from containerd_aio.distribution._retry import Retries
    from containerd_aio.distribution.hosts import HostsFunction
    from containerd_aio.distribution.keychain import Credentials, Keychain
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.services.descriptor import Descriptor, Platform
    from containerd_aio.services.images import ImageRecord
    from containerd_aio.services.stubs import Services


@dataclass(frozen=True)
class Remote:
    """An image at a registry, and how the registry is reached; see `Client.pull`.

    Attributes:
        name: Name of the image, as Docker's users write it.
        keychain: Knows credentials; or the credentials themselves.
        hosts_dir: Directory with ``hosts.toml`` files.
        hosts: Returns the hosts of a registry, instead of those files.
        plain_http: Do not encrypt where nothing is configured.
        retries: How often failures are tried again.
    """

    name: str
    keychain: Keychain | Credentials | None = None
    hosts_dir: str | PathLike[str] | None = None
    hosts: HostsFunction | None = None
    plain_http: bool = False
    retries: Retries | None = None

    @cached_property
    def reference(self) -> Reference:
        """The name, parsed.

        Raises:
            InvalidArgument: It is no name of an image.
        """
        return parse_familiar(self.name)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Registry, None]:
        """Give the registry, open."""
        from containerd_aio.distribution.registry import Registry

        async with Registry(
            self.reference.registry,
            keychain=self.keychain,
            hosts_dir=self.hosts_dir,
            hosts=self.hosts,
            plain_http=self.plain_http,
            retries=self.retries,
        ) as registry:
            yield registry


async def pull_image(
    services: Services,
    remote: Remote,
    *,
    platform: Platform | str | None = None,
    unpack: bool = True,
    snapshotter: str | None = None,
    labels: Mapping[str, str] | None = None,
    all_metadata: bool = False,
    discard_layers: bool = False,
    limits: FetchLimits | None = None,
    handler: Callable[[Descriptor], Awaitable[object]] | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[ImageRecord, Platform]:
    """Pull an image; see `Client.pull`. Returns the record, and the platform it is for."""
    run_on = next(iter(chosen(platform)), default_platform())
    options = PullOptions(
        matches=match_only(run_on),
        unpack=unpack,
        unpack_for=run_on,
        snapshotter=snapshotter,
        labels=labels,
        all_metadata=all_metadata,
        discard_layers=discard_layers,
        limits=limits or FetchLimits(),
        handler=handler,
        progress=progress or silent,
    )
    async with remote.open() as registry:
        return await pull(services, registry, remote.reference, options), run_on


async def fetch_image(
    services: Services,
    remote: Remote,
    *,
    platform: PlatformChoice = None,
    all_platforms: bool = False,
    labels: Mapping[str, str] | None = None,
    all_metadata: bool = False,
    limits: FetchLimits | None = None,
    handler: Callable[[Descriptor], Awaitable[object]] | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[ImageRecord, Platform]:
    """Fetch an image; see `Client.fetch`. Returns the record, and the first of the platforms it is for."""
    several = chosen(platform)
    options = PullOptions(
        # Each platform by itself: of what suits one, the best is not to push out what suits another.
        matches=match_any(several) if several else matcher(None, all_platforms=all_platforms),
        best_only=not several and not all_platforms,
        unpack=False,
        labels=labels,
        all_metadata=all_metadata,
        limits=limits or FetchLimits(),
        handler=handler,
        progress=progress or silent,
    )
    matcher(platform, all_platforms=all_platforms)  # both together are refused
    async with remote.open() as registry:
        record = await pull(services, registry, remote.reference, options)
    return record, next(iter(several), default_platform())


async def push_image(
    services: Services,
    remote: Remote,
    target: Descriptor,
    *,
    platform: Platform | str | None = None,
    max_uploads: int = 3,
    chunk_size: int | None = None,
    skip_non_distributable: bool = True,
    progress: ProgressCallback | None = None,
) -> Descriptor:
    """Push an image; see `Client.push`."""
    from containerd_aio.distribution.push import PushOptions, push

    only = next(iter(chosen(platform)), None)
    options = PushOptions(
        matches=None if only is None else match_only(only),
        uploads=max_uploads,
        chunk_size=chunk_size,
        skip_non_distributable=skip_non_distributable,
        progress=progress or silent,
    )
    async with remote.open() as registry:
        return await push(services, registry, remote.reference, target, options)
