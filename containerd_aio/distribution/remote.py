"""What `Client.pull`, `Client.fetch` and `Client.push` do: a name and options into a registry and a piece of work."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from containerd_aio._log import get_logger
from containerd_aio.distribution._selection import PlatformChoice, chosen, matcher
from containerd_aio.distribution.fetch import FetchLimits
from containerd_aio.distribution.hosts import configured_hosts, default_host
from containerd_aio.distribution.keychain import keychain_of
from containerd_aio.distribution.manifests import (
    children,
    is_index,
    is_manifest,
    is_non_distributable,
    read_document,
)
from containerd_aio.distribution.platforms import default_platform, match_any, match_only
from containerd_aio.distribution.progress import Action, ProgressEvent, silent
from containerd_aio.distribution.pull import PullOptions, pull
from containerd_aio.distribution.reference import Reference, parse_familiar
from containerd_aio.distribution.transfer import (
    RegistryOptions,
    offers_transfer,
    pull_by_daemon,
    push_by_daemon,
)
from containerd_aio.errors import InvalidArgument, Unimplemented, Unknown
from containerd_aio.services.content import ContentStore
from containerd_aio.services.images import ImageStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from os import PathLike

    from containerd_aio.distribution._retry import Retries
    from containerd_aio.distribution.hosts import HostsFunction
    from containerd_aio.distribution.keychain import Credentials, Keychain
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.distribution.push import PushOptions
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.services.descriptor import Descriptor, Platform
    from containerd_aio.services.images import ImageRecord
    from containerd_aio.services.stubs import Services


MAX_UPLOADS = 5
"""Blobs that a push uploads at the same time, as Docker does."""

Via = Literal["auto", "client", "daemon"]
"""Who moves the bytes of a pull or a push."""


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

    def only_here(self) -> dict[str, object]:
        """Return what of it only this process can do; the daemon has its own settings for that."""
        return {"hosts": self.hosts is not None, "retries": self.retries}

    def is_configured(self) -> bool:
        """Tell whether caller or machine have settings for the registry."""
        registry = self.reference.registry
        return (
            self.plain_http
            or self.hosts_dir is not None
            or configured_hosts(registry) != [default_host(registry)]
        )

    def for_daemon(self) -> RegistryOptions:
        """Return how the daemon is to reach the registry."""
        return RegistryOptions(
            keychain=keychain_of(self.keychain, self.reference.registry),
            hosts_dir=None if self.hosts_dir is None else str(self.hosts_dir),
            plain_http=self.plain_http,
        )

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
    convert_schema1: bool = False,
    limits: FetchLimits | None = None,
    handler: Callable[[Descriptor], Awaitable[object]] | None = None,
    progress: ProgressCallback | None = None,
    via: Via = "auto",
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
        convert_schema1=convert_schema1,
        limits=limits or FetchLimits(),
        handler=handler,
        progress=progress or silent,
    )
    asked = {
        "all_metadata": all_metadata,
        "discard_layers": discard_layers,
        "convert_schema1": convert_schema1,
        "limits": limits,
        "handler": handler,
    }
    special = remote.is_configured() or (unpack and (platform is not None or snapshotter is not None))
    if await _is_for_daemon(services, via, "pull", asked | remote.only_here(), special=special):
        try:
            return await _pull_by_daemon(services, remote, platform, options), run_on
        except (Unimplemented, InvalidArgument, Unknown) as exc:
            if via == "daemon":
                raise
            # It is set up for another snapshotter, or cannot speak to that registry (1.7 knows no plain HTTP).
            get_logger(__name__).info("not pulled by the daemon", image=remote.name, error=str(exc))
    async with remote.open() as registry:
        return await pull(services, registry, remote.reference, options), run_on


async def _is_for_daemon(
    services: Services, via: Via, verb: str, ours: Mapping[str, object], *, special: bool
) -> bool:
    """Tell whether the daemon is to try: it has to, or it can and nothing is asked for that it does not know of.

    Args:
        services: Says which daemon.
        via: Who is to do it.
        verb: What is to be done.
        ours: Argument -> value of what only this process can do.
        special: The caller or this machine have settings that the daemon does not know of.
    """
    asked = [name for name, value in ours.items() if value]
    if via not in {"auto", "client", "daemon"}:
        raise InvalidArgument(f"via is {via!r}; expected 'auto', 'client' or 'daemon'")
    if via == "daemon" and asked:
        raise InvalidArgument(
            f"a daemon cannot {verb} with {', '.join(asked)}: leave it out, or via='client'"
        )
    if via == "auto":
        return not asked and not special and await offers_transfer(services)
    return via == "daemon"


async def _pull_by_daemon(
    services: Services, remote: Remote, platform: Platform | str | None, options: PullOptions
) -> ImageRecord:
    record = await pull_by_daemon(
        services,
        remote.name,
        platform=platform,
        unpack=options.unpack,
        snapshotter=options.snapshotter,
        labels=options.labels,
        registry=remote.for_daemon(),
        progress=options.progress,
    )
    options.progress(ProgressEvent(Action.DONE, record.name, target=record.target))
    return record


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
    source: str | None = None,
    platform: Platform | str | None = None,
    max_uploads: int = MAX_UPLOADS,
    chunk_size: int | None = None,
    skip_non_distributable: bool = True,
    progress: ProgressCallback | None = None,
    via: Via = "client",
) -> Descriptor:
    """Push an image; see `Client.push`. `source` is its name here, by which the daemon knows it."""
    from containerd_aio.distribution.push import PushOptions, push

    asked = {
        "platform": platform is not None,
        "max_uploads": max_uploads != MAX_UPLOADS,
        "chunk_size": chunk_size is not None,
        "an image without a name": source is None,
        "a digest in the name": remote.reference.digest,
    }
    only = next(iter(chosen(platform)), None)
    options = PushOptions(
        matches=None if only is None else match_only(only),
        uploads=max_uploads,
        chunk_size=chunk_size,
        skip_non_distributable=skip_non_distributable,
        progress=progress or silent,
    )
    special = remote.is_configured()
    if await _is_for_daemon(services, via, "push", asked | remote.only_here(), special=special):
        assert source is not None
        try:
            return await _push_by_daemon(services, remote, source, target, options)
        except (Unimplemented, InvalidArgument, Unknown) as exc:
            if via == "daemon":
                raise
            get_logger(__name__).info("not pushed by the daemon", image=remote.name, error=str(exc))
    async with remote.open() as registry:
        return await push(services, registry, remote.reference, target, options)


async def _push_by_daemon(
    services: Services, remote: Remote, source: str, target: Descriptor, options: PushOptions
) -> Descriptor:
    if (await ImageStore(services).get(source)).target.digest != target.digest:
        raise InvalidArgument(f"image {source} does not name {target.digest} any more; look it up again")
    if options.skip_non_distributable and await _has_withheld(ContentStore(services), target):
        raise InvalidArgument(
            f"image {source} has layers that must not be passed on, and a daemon leaves out none: push it via='client'"
        )
    await push_by_daemon(
        services, remote.name, source=source, registry=remote.for_daemon(), progress=options.progress
    )
    options.progress(ProgressEvent(Action.DONE, str(remote.reference), target=target))
    return target


async def _has_withheld(content: ContentStore, target: Descriptor) -> bool:
    """Tell whether an image has layers that must not be passed on."""
    if not (is_index(target.media_type) or is_manifest(target.media_type)):
        return is_non_distributable(target.media_type)
    document = await read_document(content, target)
    below = children(document, target.media_type, f"{target.media_type} {target.digest}")
    return any([await _has_withheld(content, child) for child in below])
