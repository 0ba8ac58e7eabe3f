"""What a client does with images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio._client_base import ClientBase

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from containerd_aio.image import Image


class ImageVerbs(ClientBase):
    """The verbs about images."""

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
        self, source: str | os.PathLike[str] | AsyncIterator[bytes], *, unpack: bool = False
    ) -> list[Image]:
        """Import an OCI or Docker image archive.

        Args:
            source: Path of a tar file (plain or gzip), or its bytes as they come.
            unpack: Whether to unpack each image for this machine's platform at once.

        Raises:
            InvalidArgument: It is not such an archive; the text says what is wrong.
        """
        from containerd_aio.distribution.archive import import_archive
        from containerd_aio.image import Image

        async with self.lease():
            images = [Image(self.services, record) for record in await import_archive(self.services, source)]
            if unpack:
                for image in images:
                    await image.unpack()
        return images
