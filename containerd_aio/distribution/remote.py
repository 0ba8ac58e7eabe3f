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
from containerd_aio.distribution.platforms import default_platform, match_any, match_only
from containerd_aio.distribution.progress import Action, ProgressEvent, silent
from containerd_aio.distribution.pull import PullOptions, pull
from containerd_aio.distribution.reference import Reference, parse_familiar
from containerd_aio.distribution.transfer import offers_transfer
from containerd_aio.errors import InvalidArgument, Unimplemented, Unknown

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


Via = Literal["auto", "client", "daemon"]
"""Who moves the bytes of a pull."""


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
    ours = [name for name, value in (asked | remote.only_here()).items() if value]
    if via not in {"auto", "client", "daemon"}:
        raise InvalidArgument(f"via is {via!r}; expected 'auto', 'client' or 'daemon'")
    if via == "daemon" and ours:
        raise InvalidArgument(f"a daemon cannot pull with {', '.join(ours)}: leave it out, or via='client'")
    special = bool(
        ours or remote.is_configured() or (unpack and (platform is not None or snapshotter is not None))
    )
    if via == "daemon" or (via == "auto" and not special and await offers_transfer(services)):
        try:
            return await _pull_by_daemon(services, remote, platform, options), run_on
        except (Unimplemented, InvalidArgument, Unknown) as exc:
            if via == "daemon":
                raise
            # It is set up for another snapshotter, or cannot speak to that registry (1.7 knows no plain HTTP).
            get_logger(__name__).info("not pulled by the daemon", image=remote.name, error=str(exc))
    async with remote.open() as registry:
        return await pull(services, registry, remote.reference, options), run_on


async def _pull_by_daemon(
    services: Services, remote: Remote, platform: Platform | str | None, options: PullOptions
) -> ImageRecord:
    from containerd_aio.distribution.transfer import RegistryOptions, pull_by_daemon

    keychain = keychain_of(remote.keychain, remote.reference.registry)
    hosts_dir = None if remote.hosts_dir is None else str(remote.hosts_dir)
    record = await pull_by_daemon(
        services,
        remote.name,
        platform=platform,
        unpack=options.unpack,
        snapshotter=options.snapshotter,
        labels=options.labels,
        registry=RegistryOptions(keychain=keychain, hosts_dir=hosts_dir, plain_http=remote.plain_http),
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
