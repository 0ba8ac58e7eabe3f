"""Images: a name in the image store, and what it stands for."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from containerd_aio.distribution.manifests import chain_id as chain_id_of
from containerd_aio.distribution.manifests import (
    children,
    config_platform,
    diff_ids,
    is_index,
    is_layer,
    is_manifest,
    read_document,
    resolve_manifest,
)
from containerd_aio.distribution.platforms import Platform, default_platform, match_only, match_strict
from containerd_aio.errors import FailedPrecondition, InvalidArgument
from containerd_aio.services.content import ContentStore
from containerd_aio.services.images import ImageRecord, ImageStore
from containerd_aio.services.snapshots import Snapshotter, resolve_snapshotter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from containerd_aio.distribution.manifests import ImageManifest
    from containerd_aio.distribution.spec import HistoryEntry, ImageSpec
    from containerd_aio.distribution.usage import ImageCheck
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.stubs import Services


class Image:
    """An image of one namespace, as it was when it was looked up.

    Of an image with several platforms, the methods speak of the one variant that suits `platform`.

    Args:
        services: The stubs to call.
        record: The record in the image store.
        platform: What the image is to run on; by default this machine.

    Attributes:
        record: The record in the image store.
        platform: What the image is to run on.
    """

    def __init__(self, services: Services, record: ImageRecord, *, platform: Platform | None = None) -> None:
        self._services = services
        self._content = ContentStore(services)
        self.record = record
        self.platform = platform or default_platform()
        self._manifest: ImageManifest | None = None
        self._config: dict[str, Any] | None = None

    @classmethod
    async def get(cls, services: Services, name: str, *, platform: Platform | None = None) -> Image:
        """Return the image of that name.

        Raises:
            NotFound: There is none.
        """
        return cls(services, await ImageStore(services).get(name), platform=platform)

    @classmethod
    async def list(cls, services: Services, *filters: str) -> builtins.list[Image]:
        """Return the images that match any of `filters` (containerd's filter language), or all."""
        return [cls(services, record) for record in await ImageStore(services).list(*filters)]

    def __repr__(self) -> str:
        return f"<Image {self.name} {self.target.digest}>"

    @property
    def name(self) -> str:
        """Its name, such as ``docker.io/library/busybox:latest``."""
        return self.record.name

    @property
    def target(self) -> Descriptor:
        """The manifest or index that it names."""
        return self.record.target

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the record."""
        return self.record.labels

    @property
    def created_at(self) -> datetime | None:
        """When the record was made."""
        return self.record.created_at

    @property
    def updated_at(self) -> datetime | None:
        """When the record was changed last."""
        return self.record.updated_at

    async def manifest(self) -> ImageManifest:
        """Return the manifest for the platform.

        Raises:
            NotFound: There is none for the platform, or it is not in the content store.
            InvalidArgument: It is malformed.
        """
        if self._manifest is None:
            self._manifest = await resolve_manifest(self._content, self.target, match_only(self.platform))
        return self._manifest

    async def config(self) -> dict[str, Any]:
        """Return the image config as parsed JSON: ``config``, ``rootfs``, ``os``, ``architecture``...

        Raises:
            NotFound: There is no manifest for the platform, or the config is not in the content store.
            InvalidArgument: It is malformed.
        """
        if self._config is None:
            self._config = await read_document(self._content, (await self.manifest()).config)
        return self._config

    async def rootfs(self) -> builtins.list[str]:
        """Return the diff ids: the digests of the uncompressed layers, from the bottom up.

        Raises:
            NotFound: As `config`.
            InvalidArgument: The config has none, or another number of them than the manifest has layers.
        """
        manifest = await self.manifest()
        layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
        return diff_ids(await self.config(), len(layers), f"image {self.name}")

    async def chain_id(self) -> str:
        """Return the name of the snapshot with all layers: the parent for a container's snapshot.

        Raises:
            NotFound: As `rootfs`; so with InvalidArgument.
        """
        return chain_id_of(await self.rootfs())

    async def size(self) -> int:
        """Return the bytes of manifest, config and layers together, as the manifest gives them.

        Raises:
            NotFound: As `manifest`; so with InvalidArgument.
        """
        manifest = await self.manifest()
        return sum(d.size for d in (manifest.target, manifest.config, *manifest.layers))

    async def platforms(self) -> builtins.list[Platform]:
        """Return the platforms for which there are manifests, whether their content is here or not.

        Raises:
            NotFound: The index, or the config of an image without one, is not in the content store.
            InvalidArgument: It is malformed.
        """
        if not is_index(self.target.media_type):
            return [await config_platform(self._content, (await self.manifest()).config)]
        what = f"index {self.target.digest}"
        entries = children(await read_document(self._content, self.target), self.target.media_type, what)
        found = [e.platform for e in entries if e.platform is not None and is_manifest(e.media_type)]
        return [platform for platform in found if platform.os != "unknown"]  # those are attestations

    async def spec(self) -> ImageSpec:
        """Return the image config as typed values; `config` has it as it is written.

        Raises:
            NotFound: As `config`; so with InvalidArgument.
        """
        from containerd_aio.distribution.spec import parse_spec

        layers = tuple(d for d in (await self.manifest()).layers if is_layer(d.media_type))
        return parse_spec(await self.config(), layers, f"image {self.name}")

    async def history(self) -> builtins.list[HistoryEntry]:
        """Return the steps by which the image was made, from the bottom up, as far as its config tells.

        Raises:
            NotFound: As `config`; so with InvalidArgument.
        """
        return list((await self.spec()).history)

    async def check(self) -> ImageCheck:
        """Return what of the image's content is in the content store and what is missing, for the platform.

        Raises:
            InvalidArgument: A manifest or index is malformed.
        """
        from containerd_aio.distribution.usage import check

        return await check(self._services, self.target, match_only(self.platform))

    async def usage(
        self, *, manifest_limit: int | None = 1, snapshots: bool = False, declared: bool = False
    ) -> int:
        """Return how many bytes the image takes; what it refers to more than once counts once.

        Args:
            manifest_limit: Of an image with several platforms, count so many manifests, the one for the platform first;
                0 counts all, and they must be there; None counts those that are there.
            snapshots: Count the snapshots of its layers, too.
            declared: Count what manifests and indexes say instead of what is stored.

        Raises:
            NotFound: Content is missing.
            InvalidArgument: A manifest or index is malformed, or `manifest_limit` is negative.
        """
        from containerd_aio.distribution.usage import usage

        if manifest_limit is not None and manifest_limit < 0:
            raise InvalidArgument(f"manifest_limit is {manifest_limit}; 0 means all")
        return await usage(
            self._services,
            self.target,
            match_only(self.platform),
            manifest_limit=manifest_limit,
            snapshots=snapshots,
            declared=declared,
        )

    async def tag(self, name: str, *, force: bool = False) -> Image:
        """Give what this image names another name, too; labels go along (Go: ``ctr images tag``).

        Args:
            name: The new name, in full, such as ``docker.io/library/app:2``.
            force: Let a name that is taken stand for this image from now on.

        Raises:
            AlreadyExists: There is an image of that name.
        """
        store = ImageStore(self._services)
        record = (
            await store.create_or_update(name, self.target, labels=self.labels)
            if force
            else await store.create(name, self.target, labels=self.labels)
        )
        return Image(self._services, record, platform=self.platform)

    async def update_labels(self, labels: Mapping[str, str | None]) -> None:
        """Change labels of the record; `record` and `labels` follow.

        Args:
            labels: New values; None or an empty one removes the label.

        Raises:
            NotFound: There is no image of that name any more.
        """
        self.record = await ImageStore(self._services).update_labels(self.name, labels)

    async def unpack(self, snapshotter: str | None = None, *, check_platform: bool = False) -> str:
        """Unpack the image into snapshots, as far as that is not done; see `distribution.unpack.unpack`.

        Args:
            snapshotter: Where to; by default the namespace's default, else ``overlayfs``.
            check_platform: Refuse an image for a platform that the snapshotter does not say it serves (Go:
                WithSnapshotterPlatformCheck).

        Returns:
            The chain id.

        Raises:
            FailedPrecondition: The snapshotter does not serve the image's platform.
        """
        from containerd_aio.distribution.unpack import unpack

        manifest = await self.manifest()
        if check_platform:
            await self._check_snapshotter(await resolve_snapshotter(self._services, snapshotter), manifest)
        return await unpack(self._services, manifest, snapshotter=snapshotter)

    async def _check_snapshotter(self, snapshotter: str, manifest: ImageManifest) -> None:
        from containerd_aio.services.introspection import Introspection

        wanted = await config_platform(self._content, manifest.config)
        chosen = f"type==io.containerd.snapshotter.v1,id=={snapshotter}"
        plugins = await Introspection(self._services).plugins(chosen)
        served = [platform for plugin in plugins for platform in plugin.platforms]
        if not any(match_strict(platform)(wanted) is not None for platform in served):
            raise FailedPrecondition(
                f"snapshotter {snapshotter} does not support platform {wanted} of image {self.name}; it supports "
                f"{', '.join(map(str, served)) or 'none'}"
            )

    async def is_unpacked(self, snapshotter: str | None = None) -> bool:
        """Tell whether the snapshot with all layers is there.

        Args:
            snapshotter: Where; by default the namespace's default, else ``overlayfs``.

        Raises:
            NotFound: As `chain_id`; so with InvalidArgument.
        """
        chain = await self.chain_id()
        name = await resolve_snapshotter(self._services, snapshotter)
        return not chain or await Snapshotter(self._services, name).exists(chain)

    async def delete(self, *, sync: bool = False) -> None:
        """Delete the record, if it still names what this image is.

        Args:
            sync: Run a garbage collection now and return when it is done.

        Raises:
            NotFound: It is gone, or names something else by now.
        """
        await ImageStore(self._services).delete(self.name, sync=sync, target=self.target)
