"""What a client does with images."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from containerd_aio._client_registries import RegistryVerbs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from containerd_aio.distribution._selection import PlatformChoice
    from containerd_aio.distribution._source import ArchiveSink, ArchiveSource
    from containerd_aio.distribution.build import LayerSource
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.image import Image
    from containerd_aio.services.images import ImageStore


class ImageVerbs(RegistryVerbs):
    """The verbs about images."""

    @property
    def image_store(self) -> ImageStore:
        """The image records of this namespace, one by one (Go: ``Client.ImageService``)."""
        from containerd_aio.services.images import ImageStore

        return ImageStore(self.services)

    async def image(self, name: str) -> Image:
        """Return the image of that name.

        Raises:
            NotFound: There is none.
        """
        from containerd_aio.image import Image

        return await Image.get(self.services, name)

    async def images(self, *filters: str) -> list[Image]:
        """Return the images that match any of `filters` (containerd's filter language), or all."""
        from containerd_aio.image import Image

        return await Image.list(self.services, *filters)

    async def import_archive(
        self,
        source: ArchiveSource,
        *,
        name: str | None = None,
        names: Callable[[str], str | None] | None = None,
        platform: PlatformChoice = None,
        all_platforms: bool = False,
        index_name: str | None = None,
        digest_names: str = "",
        skip_digest_of_named: bool = False,
        labels: Mapping[str, str] | None = None,
        skip_missing: bool = False,
        compress: bool = False,
        max_size: int | None = None,
        unpack: bool = False,
        snapshotter: str | None = None,
        discard_layers: bool = False,
        progress: ProgressCallback | None = None,
    ) -> list[Image]:
        """Import an OCI or Docker image archive; see `distribution.archive.import_archive`.

        Args:
            source: Path of a tar file (plain, gzip or zstd), an open binary file, or its bytes as they come.
            name: For an image to which the archive gives at most a tag: its repository, or its full name.
            names: Instead of `name`: makes a name of what the archive's annotation for tags says, such as
                `distribution.archive.add_prefix` and `filter_prefix` do; None means no name.
            platform: Of an image with several platforms import only the variants for these; by default this machine's.
            all_platforms: Import all of them.
            index_name: Make an image of this name for the archive's whole index as well.
            digest_names: Give every image the name ``<digest_names>@<digest>``, too.
            skip_digest_of_named: ... unless it has another name.
            labels: Labels of the images.
            skip_missing: Take archives that lack some of the content that their indexes and manifests list.
            compress: Pack plain layers of Docker's older archives with gzip.
            max_size: Refuse archives that have, decompressed, more bytes than this.
            unpack: Whether to unpack each image at once, for the platform given, else for this machine's.
            snapshotter: Where to; by default the namespace's default, else ``overlayfs``.
            discard_layers: Do not keep the packed layers once they are unpacked. Such an image runs, but it can be
                neither exported nor pushed.
            progress: Called as the archive is read; see `distribution.progress`.

        Raises:
            InvalidArgument: It is not such an archive; the text says what is wrong. Or options contradict each other.
            NotFound: It has nothing for the platform.
        """
        from containerd_aio.distribution._leases import own_lease
        from containerd_aio.distribution._selection import chosen
        from containerd_aio.distribution.archive import import_archive
        from containerd_aio.distribution.progress import silent
        from containerd_aio.errors import InvalidArgument
        from containerd_aio.image import Image

        if discard_layers and not unpack:
            raise InvalidArgument("discard_layers needs unpack=True: nothing would be left of the layers")
        run_on = next(iter(chosen(platform)), None)
        async with own_lease(self.services):
            records = await import_archive(
                self.services,
                source,
                name=name,
                names=names,
                platform=platform,
                all_platforms=all_platforms,
                index_name=index_name,
                digest_names=digest_names,
                skip_digest_of_named=skip_digest_of_named,
                labels=labels,
                skip_missing=skip_missing,
                discard_layers=discard_layers,
                compress=compress,
                max_size=max_size,
                progress=progress or silent,
            )
            images = [Image(self.services, record, platform=run_on) for record in records]
            if unpack:
                for image in images:
                    await image.unpack(snapshotter)
        return images

    async def export_archive(
        self,
        sink: ArchiveSink,
        *images: str | Image,
        platform: PlatformChoice = None,
        all_platforms: bool = False,
        docker_manifest: bool = True,
        skip_missing: bool = False,
        skip_non_distributable: bool = False,
        compression: str = "none",
        progress: ProgressCallback | None = None,
    ) -> int:
        """Write images to an OCI archive, which ``ctr`` and Docker read; see `distribution.export.export_archive`.

        Nothing is written before it is known that everything is there.

        Args:
            sink: Path of the archive, an open binary file, or what has a coroutine method ``send(bytes)``.
            *images: Images or their names.
            platform: Of an image with several platforms export the variant that suits each of these best; by default
                this machine's.
            all_platforms: Export all of them.
            docker_manifest: Write the ``manifest.json`` by which Docker before version 25 loads the archive.
            skip_missing: Leave out content that is not there instead of refusing.
            skip_non_distributable: Leave out layers that must not be passed on.
            compression: How the archive is packed: ``none``, ``gzip`` or ``zstd``.
            progress: Called for each blob as it is written, and when it is.

        Returns:
            How many bytes the archive has.

        Raises:
            NotFound: There is no such image, content is missing, or an image has nothing for the platform.
            InvalidArgument: Options contradict each other, or no image is named.
            DataLoss: Stored content is damaged.
            OSError: The file cannot be written.
        """
        from containerd_aio.distribution._source import written

        async with self.open_export(
            *images,
            platform=platform,
            all_platforms=all_platforms,
            docker_manifest=docker_manifest,
            skip_missing=skip_missing,
            skip_non_distributable=skip_non_distributable,
            compression=compression,
            progress=progress,
        ) as chunks:
            return await written(sink, chunks)

    @asynccontextmanager
    async def open_export(
        self,
        *images: str | Image,
        platform: PlatformChoice = None,
        all_platforms: bool = False,
        docker_manifest: bool = True,
        skip_missing: bool = False,
        skip_non_distributable: bool = False,
        compression: str = "none",
        progress: ProgressCallback | None = None,
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Give an archive as an asynchronous iterator of its bytes: ``async with client.open_export(name) as chunks``.

        Arguments and errors are those of `export_archive`; what is missing is told when the block is entered.
        """
        from containerd_aio.distribution.export import ExportOptions, open_export
        from containerd_aio.distribution.progress import silent

        found = [await self.image(image) if isinstance(image, str) else image for image in images]
        options = ExportOptions(
            platform=platform,
            all_platforms=all_platforms,
            docker_manifest=docker_manifest,
            skip_missing=skip_missing,
            skip_non_distributable=skip_non_distributable,
            compression=compression,
        )
        targets = [(image.name, image.target) for image in found]
        async with open_export(self.services, targets, options, progress=progress or silent) as chunks:
            yield chunks

    async def convert_image(
        self,
        source: str | Image,
        name: str,
        *,
        oci: bool = False,
        compression: str | None = None,
        platform: PlatformChoice = None,
        all_platforms: bool = False,
    ) -> Image:
        """Make an image over and give the result a name, which may be the old one; see `distribution.convert.convert`.

        Args:
            source: The image or its name.
            name: Name of the result; an image of that name stands for the result from now on.
            oci: Turn Docker's media types into OCI's.
            compression: Pack the layers so: ``none``, ``gzip`` or ``zstd``; None leaves them as they are.
            platform: Of an image with several platforms keep only the variants for these; by default this machine's.
            all_platforms: Keep all variants; all must be there.

        Returns:
            The image of that name. With nothing to change it names what `source` does.

        Raises:
            NotFound: There is no such image, content is missing, or there is nothing for the platform.
            InvalidArgument: The image is malformed, or an option is.
            DataLoss: A layer does not unpack to what the image config says.
        """
        from containerd_aio.distribution._leases import own_lease
        from containerd_aio.distribution.convert import convert
        from containerd_aio.image import Image
        from containerd_aio.services.images import ImageStore

        image = await self.image(source) if isinstance(source, str) else source
        async with own_lease(self.services):
            target = await convert(
                self.services,
                image.target,
                oci=oci,
                compression=compression,
                platform=platform,
                all_platforms=all_platforms,
            )
            store = ImageStore(self.services)
            return Image(
                self.services, await store.create_or_update(name, target, labels=image.labels or None)
            )

    async def build_image(
        self,
        name: str,
        *,
        layers: Sequence[LayerSource],
        config: Mapping[str, Any] | None = None,
        platform: str | None = None,
        compression: str = "gzip",
        labels: Mapping[str, str] | None = None,
        unpack: bool = False,
    ) -> Image:
        """Build a small image of files and directories, and store it; the same arguments give the same digests.

        `distribution.build` has images for several platforms, and archives of them.

        Args:
            name: Name of the image; one that is there stands for the new one from now on.
            layers: From the bottom up: paths of directories, and mappings of a path to bytes or to an
                `distribution.build.Entry`.
            config: The ``config`` of the OCI image config: ``Env``, ``Cmd``, ``Entrypoint``, ``User``, ``WorkingDir``...
            platform: ``os/architecture[/variant]``; None is Linux on this machine.
            compression: How layers are packed: ``none``, ``gzip`` or ``zstd``.
            labels: Labels of the image.
            unpack: Whether to unpack it at once.

        Raises:
            InvalidArgument: An argument is malformed, or a directory holds what an image can't.
            OSError: A directory cannot be read.
        """
        import anyio

        from containerd_aio.distribution._leases import own_lease
        from containerd_aio.distribution.build import build_image, store_image
        from containerd_aio.distribution.platforms import parse_platform
        from containerd_aio.image import Image
        from containerd_aio.services.images import ImageStore

        built = await anyio.to_thread.run_sync(
            lambda: build_image(layers=layers, config=config, platform=platform, compression=compression)
        )
        async with own_lease(self.services):
            await store_image(self.services, built)
            record = await ImageStore(self.services).create_or_update(name, built.target, labels=labels)
            run_on = None if platform is None else parse_platform(platform)
            image = Image(self.services, record, platform=run_on)
            if unpack:
                await image.unpack()
        return image
