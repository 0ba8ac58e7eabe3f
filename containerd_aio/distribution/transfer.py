"""Images moved by the daemon: it pulls, pushes, imports and exports itself, and the client looks on.

The bytes of a pull never pass through the client. Credentials do: the daemon asks for them when a registry refuses. Needs
the transfer service of containerd 1.7 and later.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from containerd_aio.distribution._selection import chosen
from containerd_aio.distribution._source import opened, written
from containerd_aio.distribution._tar import EndFinder
from containerd_aio.distribution._transfer_session import TransferSession, transfer_session
from containerd_aio.distribution.platforms import default_platform
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.errors import DataLoss, InvalidArgument, Unimplemented
from containerd_aio.services.images import ImageStore
from containerd_aio.services.streaming import receive_bytes, send_bytes
from containerd_aio.services.transfer import (
    ArchiveFromStream,
    ArchiveToStream,
    ExtraName,
    RegistryImage,
    StoredImage,
    Transfer,
    Unpack,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence

    from containerd_aio.distribution._selection import PlatformChoice
    from containerd_aio.distribution._source import ArchiveSink, ArchiveSource
    from containerd_aio.distribution.keychain import Keychain
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.services.descriptor import Platform
    from containerd_aio.services.images import ImageRecord
    from containerd_aio.services.stubs import Services

__all__ = [
    "RegistryOptions",
    "export_by_daemon",
    "import_by_daemon",
    "offers_transfer",
    "pull_by_daemon",
    "push_by_daemon",
    "tag_by_daemon",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How the daemon reaches a registry.

    Attributes:
        keychain: Knows the credentials, which are asked for when the registry refuses; None to go without.
        headers: HTTP headers for each request.
        hosts_dir: Directory with ``hosts.toml`` files on the daemon's machine (containerd 2.0 and later; 1.7 has none
            for transfers, and is refused).
        plain_http: Speak HTTP where ``hosts.toml`` says nothing (containerd 2.0 and later; 1.7 is refused).
    """

    keychain: Keychain | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    hosts_dir: str | None = None
    plain_http: bool = False


async def offers_transfer(services: Services) -> bool:
    """Tell whether the daemon has a transfer service; asking changes nothing."""
    from containerd_aio.services.introspection import Introspection

    plugins = await Introspection(services).plugins("type==io.containerd.transfer.v1")
    return any(plugin.init_error is None for plugin in plugins)


async def pull_by_daemon(
    services: Services,
    name: str,
    *,
    platform: PlatformChoice = None,
    all_platforms: bool = False,
    unpack: bool = True,
    snapshotter: str | None = None,
    labels: Mapping[str, str] | None = None,
    registry: RegistryOptions | None = None,
    progress: ProgressCallback | None = None,
) -> ImageRecord:
    """Have the daemon pull an image.

    Args:
        services: Says which daemon and namespace.
        name: The image, as Docker's users write it.
        platform: Of an image with several platforms pull the variants for these; by default this machine's.
        all_platforms: Pull all variants.
        unpack: Whether to unpack the image for each platform named.
        snapshotter: Where to; by default the daemon's own choice. Its configuration must name the snapshotter.
        labels: Labels of the image.
        registry: How to reach the registry.
        progress: Called with each step that the daemon tells.

    Returns:
        The image's record.

    Raises:
        Unimplemented: The daemon has no transfer service (containerd 1.6), or does not take an option of `registry`.
        NotFound: There is no such image, or it has nothing for the platform.
        InvalidArgument: The name is malformed, or the daemon is not configured to unpack for platform and snapshotter.
    """
    reference = str(parse_familiar(name))
    platforms = _platforms(platform, all_platforms=all_platforms)
    unpacked = platforms or [default_platform()]
    destination = StoredImage(
        reference,
        labels=dict(labels or {}),
        platforms=tuple(platforms),
        unpacks=tuple(Unpack(p, snapshotter or "") for p in unpacked) if unpack else (),
    )
    async with transfer_session(services, progress) as session:
        source = await _registry(services, session, reference, registry)
        await session.run(source, destination)
        return await ImageStore(services).get(reference)


async def push_by_daemon(
    services: Services,
    name: str,
    *,
    source: str | None = None,
    registry: RegistryOptions | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Have the daemon push an image: all of it, which needs all of it to be here.

    There is no choice of platforms: 1.7 does not heed one, and 2.1 then pushes an index that registries refuse, for it lists
    what they lack. `Client.push` pushes the manifest for one platform alone.

    Args:
        services: Says which daemon and namespace.
        name: Where to: a name as Docker's users write it.
        source: The image to be pushed; by default the one named `name`.
        registry: How to reach the registry.
        progress: Called with each step that the daemon tells.

    Raises:
        Unimplemented: The daemon has no transfer service (containerd 1.6), or does not take an option of `registry`.
        NotFound: There is no such image, or content is missing.
        InvalidArgument: The name is malformed.
    """
    reference = str(parse_familiar(name))
    stored = StoredImage(reference if source is None else source)
    async with transfer_session(services, progress) as session:
        await session.run(stored, await _registry(services, session, reference, registry))


async def import_by_daemon(
    services: Services,
    archive: ArchiveSource,
    *,
    names: Sequence[ExtraName] = (),
    index_name: str = "",
    platform: PlatformChoice = None,
    all_platforms: bool = False,
    unpack: bool = False,
    snapshotter: str | None = None,
    labels: Mapping[str, str] | None = None,
    compress: bool = False,
    progress: ProgressCallback | None = None,
) -> list[ImageRecord]:
    """Have the daemon import an archive, which is sent to it.

    Args:
        services: Says which daemon and namespace.
        archive: Path of the archive, an open binary file, or its bytes as an asynchronous iterable.
        names: How images are named; by default as the archive says, and where it has a mere tag,
            ``import-<year>-<month>-<day>:<tag>`` (as ``ctr`` does).
        index_name: Name for the archive's whole index; empty for none.
        platform: Of an image with several platforms import the variants for these; by default this machine's.
        all_platforms: Import all variants.
        unpack: Whether to unpack the images for each platform named.
        snapshotter: Where to; by default the daemon's own choice.
        labels: Labels of the images.
        compress: Compress layers that are plain.
        progress: Called with each step that the daemon tells.

    Returns:
        The images that were made or changed, by name.

    Raises:
        Unimplemented: The daemon has no transfer service (containerd 1.6).
        InvalidArgument: Options contradict each other, or the daemon cannot unpack as asked.
        Unknown: It is no archive; the daemon says so in its own words.
    """
    platforms = _platforms(platform, all_platforms=all_platforms)
    unpacked = platforms or [default_platform()]
    destination = StoredImage(
        index_name,
        labels=dict(labels or {}),
        platforms=tuple(platforms),
        extra_names=tuple(names) or (_default_name(),),
        unpacks=tuple(Unpack(p, snapshotter or "") for p in unpacked) if unpack else (),
    )
    store = ImageStore(services)
    before = {record.name: record for record in await store.list()}
    async with transfer_session(services, progress) as session, opened(archive) as chunks:
        stream = await session.stream()
        source = ArchiveFromStream(stream.name, force_compress=compress)
        # The daemon may know enough before the archive's last bytes.
        await session.run_beside(source, destination, lambda: send_bytes(stream, chunks), finish=False)
        after = await store.list()
    return [record for record in after if record != before.get(record.name)]


async def export_by_daemon(
    services: Services,
    sink: ArchiveSink,
    name: str,
    *,
    platform: PlatformChoice = None,
    all_platforms: bool = False,
    docker_manifest: bool = True,
    skip_non_distributable: bool = False,
    progress: ProgressCallback | None = None,
) -> int:
    """Have the daemon export an image, and write what it sends.

    Args:
        services: Says which daemon and namespace.
        sink: Path of the archive, an open binary file, or what has a coroutine method ``send(bytes)``.
        name: The image.
        platform: Of an image with several platforms export the variants for these; by default this machine's.
        all_platforms: Export all variants.
        docker_manifest: Write the ``manifest.json`` that Docker's loader reads.
        skip_non_distributable: Leave out layers that must not be passed on.
        progress: Called with each step that the daemon tells.

    Returns:
        How many bytes the archive has.

    Raises:
        Unimplemented: The daemon has no transfer service (containerd 1.6), or does not take an option of `registry`.
        NotFound: There is no such image, or content is missing.
        OSError: The file cannot be written.
    """
    platforms = _platforms(platform, all_platforms=all_platforms)
    await ImageStore(services).get(name)  # before a file is made
    async with transfer_session(services, progress) as session:
        stream = await session.stream()
        destination = ArchiveToStream(
            stream.name,
            platforms=tuple(platforms),
            all_platforms=all_platforms,
            skip_docker_manifest=not docker_manifest,
            skip_non_distributable=skip_non_distributable,
        )
        size = 0

        async def write() -> None:
            nonlocal size
            async with aclosing(receive_bytes(stream)) as chunks, aclosing(_whole(chunks)) as archive:
                size = await written(sink, archive)

        await session.run_beside(StoredImage(name), destination, write, finish=True)
    return size


async def tag_by_daemon(services: Services, name: str, new_name: str) -> ImageRecord:
    """Have the daemon give an image another name, too; one that is taken stands for this image from now on.

    Raises:
        Unimplemented: The daemon has no transfer service (containerd 1.6).
        NotFound: There is no such image.
    """
    await Transfer(services).transfer(StoredImage(name), StoredImage(new_name))
    return await ImageStore(services).get(new_name)


def _platforms(platform: PlatformChoice, *, all_platforms: bool) -> list[Platform]:
    several = chosen(platform)
    if several and all_platforms:
        raise InvalidArgument("give platform or all_platforms, not both")
    return [] if all_platforms else several or [default_platform()]


async def _whole(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield an archive to its end, which it must tell itself: containerd does not end the stream of an export."""
    end = EndFinder()
    async for chunk in chunks:
        complete = end.feed(chunk)
        yield chunk
        if complete:
            return
    raise DataLoss("containerd ended its export before the archive was complete")


def _default_name() -> ExtraName:
    """Return what has the daemon take an archive's own names: without any it would make no image."""
    return ExtraName(f"import-{datetime.now(UTC):%Y-%m-%d}", is_prefix=True, allow_overwrite=True)


async def _registry(
    services: Services, session: TransferSession, reference: str, options: RegistryOptions | None
) -> RegistryImage:
    options = options or RegistryOptions()
    if options.hosts_dir is not None or options.plain_http:
        version = (await services.version.version()).version
        if version.startswith("1."):
            # It would not say so: it would speak to another host than it was told.
            raise Unimplemented(
                f"containerd {version} takes neither hosts_dir nor plain_http for a transfer, that came with 2.0: let "
                f"the client move the image"
            )
    auth_stream = "" if options.keychain is None else await session.answer_from(options.keychain)
    return RegistryImage(
        reference,
        auth_stream=auth_stream,
        headers=options.headers,
        host_dir=options.hosts_dir or "",
        default_scheme="http" if options.plain_http else "",
    )
