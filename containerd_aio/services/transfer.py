"""The transfer service: images moved by the daemon itself (containerd 1.7 and later).

A transfer has a source and a destination. containerd does these pairs: registry to store (pull), store to registry (push),
archive to store (import), store to archive (export), store to store (tag), and an archive to an archive (an echo).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from containerd_aio.api.containerd.services.transfer.v1 import TransferOptions, TransferRequest
from containerd_aio.api.containerd.types import transfer as raw
from containerd_aio.typeurl import pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from betterproto2 import Message

    from containerd_aio.services.descriptor import Platform
    from containerd_aio.services.stubs import Services

__all__ = [
    "ArchiveFromStream",
    "ArchiveToStream",
    "ExtraName",
    "RegistryImage",
    "StoredImage",
    "Transfer",
    "Unpack",
]


@dataclass(frozen=True, slots=True)
class Unpack:
    """A wish to have an image unpacked.

    Attributes:
        platform: For this platform.
        snapshotter: Into this snapshotter; empty for the daemon's default. The daemon's configuration must allow the pair.
    """

    platform: Platform
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class ExtraName:
    """How an import names images (Go: ``transfer/image.WithNamedPrefix`` and ``WithDigestRef``).

    Attributes:
        name: A name, or a prefix of names.
        is_prefix: `name` is a prefix: only names under it are taken, and a mere tag is put behind it.
        allow_overwrite: Names that are not under the prefix are taken, too.
        add_digest: Name every manifest ``name@digest``, too.
        skip_named_digest: ... unless it has another name.
    """

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    add_digest: bool = False
    skip_named_digest: bool = False

    def to_raw(self) -> raw.ImageReference:
        """Return containerd's message."""
        return raw.ImageReference(
            name=self.name,
            is_prefix=self.is_prefix,
            allow_overwrite=self.allow_overwrite,
            add_digest=self.add_digest,
            skip_named_digest=self.skip_named_digest,
        )


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of the image store, as source or destination.

    Attributes:
        name: Its name; may be empty for an import that names what it finds.
        labels: Labels of a new record.
        platforms: Platforms that are wanted; none leaves the choice to the daemon.
        all_metadata: Keep manifests and configs of the others, too.
        manifest_limit: At most so many manifests of an index; 0 is no limit.
        extra_names: How an import names what it finds.
        unpacks: What is to be unpacked.
    """

    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    platforms: tuple[Platform, ...] = ()
    all_metadata: bool = False
    manifest_limit: int = 0
    extra_names: tuple[ExtraName, ...] = ()
    unpacks: tuple[Unpack, ...] = ()

    def to_raw(self) -> Message:
        """Return containerd's message."""
        return raw.ImageStore(
            name=self.name,
            labels=dict(self.labels),
            platforms=[platform.to_raw() for platform in self.platforms],
            all_metadata=self.all_metadata,
            manifest_limit=self.manifest_limit,
            extra_references=[name.to_raw() for name in self.extra_names],
            unpacks=[
                raw.UnpackConfiguration(platform=u.platform.to_raw(), snapshotter=u.snapshotter)
                for u in self.unpacks
            ],
        )


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """An image in a registry, as source or destination.

    Attributes:
        reference: Its name, with the registry's host.
        auth_stream: Name of the stream on which the daemon asks for credentials; empty to go without.
        headers: HTTP headers for each request.
        host_dir: Directory with ``hosts.toml`` files on the daemon's machine (containerd 2.0 and later).
        default_scheme: ``http`` or ``https`` where ``hosts.toml`` says nothing (containerd 2.0 and later).
    """

    reference: str
    auth_stream: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # there may be a token among them
    host_dir: str = ""
    default_scheme: str = ""

    def to_raw(self) -> Message:
        """Return containerd's message."""
        return raw.OciRegistry(
            reference=self.reference,
            resolver=raw.RegistryResolver(
                auth_stream=self.auth_stream,
                headers=dict(self.headers),
                host_dir=self.host_dir,
                default_scheme=self.default_scheme,
            ),
        )


@dataclass(frozen=True, slots=True)
class ArchiveFromStream:
    """An archive that the client sends, as source.

    Attributes:
        stream: Name of the stream.
        media_type: Its format; empty lets the daemon find out.
        force_compress: Compress layers that are plain.
    """

    stream: str
    media_type: str = ""
    force_compress: bool = False

    def to_raw(self) -> Message:
        """Return containerd's message."""
        return raw.ImageImportStream(
            stream=self.stream, media_type=self.media_type, force_compress=self.force_compress
        )


@dataclass(frozen=True, slots=True)
class ArchiveToStream:
    """An archive that the client receives, as destination.

    Attributes:
        stream: Name of the stream.
        media_type: The format wanted; empty for the daemon's default.
        platforms: Platforms that go along; none leaves the choice to the daemon.
        all_platforms: All of them go along.
        skip_docker_manifest: Leave out the ``manifest.json`` that Docker's loader reads.
        skip_non_distributable: Leave out layers that must not be passed on.
    """

    stream: str
    media_type: str = ""
    platforms: tuple[Platform, ...] = ()
    all_platforms: bool = False
    skip_docker_manifest: bool = False
    skip_non_distributable: bool = False

    def to_raw(self) -> Message:
        """Return containerd's message."""
        return raw.ImageExportStream(
            stream=self.stream,
            media_type=self.media_type,
            platforms=[platform.to_raw() for platform in self.platforms],
            all_platforms=self.all_platforms,
            skip_compatibility_manifest=self.skip_docker_manifest,
            skip_non_distributable=self.skip_non_distributable,
        )


Place = StoredImage | RegistryImage | ArchiveFromStream | ArchiveToStream
"""Where an image comes from or goes to."""


class Transfer:
    """The transfer service in one namespace.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.transfer

    async def transfer(self, source: Place, destination: Place, *, progress_stream: str = "") -> None:
        """Move an image and return when that is done; there is no deadline by default.

        Hold a lease, or what an import brings may be collected on the way.

        Args:
            source: Where from.
            destination: Where to.
            progress_stream: Name of the stream on which the daemon tells how far it is; empty for none.

        Raises:
            Unimplemented: The daemon has no such service (containerd 1.6), or does not do this pair.
            NotFound: There is no such image.
            InvalidArgument: The daemon does not unpack for any of the platforms and snapshotters.
        """
        request = TransferRequest(
            source=pack(source.to_raw()),
            destination=pack(destination.to_raw()),
            options=TransferOptions(progress_stream=progress_stream),
        )
        await self._stub.transfer(request)
