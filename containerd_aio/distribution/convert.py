"""Images made over: OCI's media types instead of Docker's, layers packed otherwise, platforms left out (Go: core/images/converter).

What is converted is new content; the old stays as long as something refers to it. The layers' diff ids do not change, so
snapshots that were made of the old image serve the new one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from containerd_aio.distribution._compression import check_compression
from containerd_aio.distribution._layers import compression_of, repack
from containerd_aio.distribution._leases import own_lease
from containerd_aio.distribution._selection import matcher
from containerd_aio.distribution.manifests import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    children,
    diff_ids,
    gc_labels,
    is_index,
    is_layer,
    is_manifest,
    is_non_distributable,
    read_document,
)
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.services._convert import unique_name
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor

if TYPE_CHECKING:
    from containerd_aio.distribution._compression import Compression
    from containerd_aio.distribution._selection import PlatformChoice
    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.services.stubs import Services

__all__ = ["convert", "layer_media_type", "oci_media_type"]

_GC_LABELS = "containerd.io/gc."

# Annotations of a layer that speak of its bytes, for snapshotters that read the packed layer.
_OF_BYTES = "containerd.io/snapshot/"

_OCI_TYPES = {DOCKER_INDEX: OCI_INDEX, DOCKER_MANIFEST: OCI_MANIFEST, DOCKER_CONFIG: OCI_CONFIG}

_DOCKER_LAYER = re.compile(
    r"application/vnd\.docker\.image\.rootfs\.(?P<foreign>foreign\.)?diff\.tar(?:\.(?P<how>gzip|zstd))?"
)
_OCI_LAYER = re.compile(
    r"application/vnd\.oci\.image\.layer\.(?P<foreign>nondistributable\.)?v1\.tar(?:\+(?P<how>gzip|zstd))?"
)


def oci_media_type(media_type: str) -> str:
    """Return OCI's media type for one of Docker's; any other as it is."""
    found = _DOCKER_LAYER.fullmatch(media_type)
    if found is None:
        return _OCI_TYPES.get(media_type, media_type)
    foreign = "nondistributable." if found["foreign"] else ""
    return f"application/vnd.oci.image.layer.{foreign}v1.tar" + (f"+{found['how']}" if found["how"] else "")


def layer_media_type(media_type: str, compression: Compression) -> str | None:
    """Return the media type of a layer when it is packed in another way; None for what is no plain file system layer."""
    how = "" if compression == "none" else compression
    if (found := _DOCKER_LAYER.fullmatch(media_type)) is not None:
        return f"application/vnd.docker.image.rootfs.{found['foreign'] or ''}diff.tar" + (how and f".{how}")
    if (found := _OCI_LAYER.fullmatch(media_type)) is not None:
        return f"application/vnd.oci.image.layer.{found['foreign'] or ''}v1.tar" + (how and f"+{how}")
    return None


async def convert(
    services: Services,
    target: Descriptor,
    *,
    oci: bool = False,
    compression: str | None = None,
    platform: PlatformChoice = None,
    all_platforms: bool = False,
) -> Descriptor:
    """Return an image made over; `target` itself if there is nothing to change.

    Hold a lease until something refers to what is returned; without one, one is held for the length of the call. When
    it fails or is cancelled, what was made is collected with the lease.

    Args:
        services: Says which daemon and namespace.
        target: The image's manifest or index.
        oci: Turn Docker's media types into OCI's.
        compression: Pack the layers so: ``none``, ``gzip`` or ``zstd``; None leaves them as they are. Layers that must
            not be passed on, and encrypted ones, stay as they are.
        platform: Of an image with several platforms keep only the variants for these; by default this machine's.
        all_platforms: Keep all variants; all must be there.

    Returns:
        The new manifest or index.

    Raises:
        NotFound: Content is missing, or there is nothing for the platform.
        InvalidArgument: The image is malformed, or an option is.
        DataLoss: A layer does not unpack to what the image config says.
    """
    how = None if compression is None else check_compression(compression)
    matches = matcher(platform, all_platforms=all_platforms)
    async with own_lease(services):
        return await _Conversion(ContentStore(services), matches, how, oci=oci).run(target)


class _Conversion:
    def __init__(
        self, content: ContentStore, matches: Matcher, compression: Compression | None, *, oci: bool
    ) -> None:
        self._content = content
        self._matches = matches
        self._compression = compression
        self._oci = oci

    async def run(self, target: Descriptor) -> Descriptor:
        """Return `target`, or what has taken its place."""
        if not (is_index(target.media_type) or is_manifest(target.media_type)):
            raise InvalidArgument(
                f"cannot convert {target.digest}: a {target.media_type!r} is neither an index nor a manifest"
            )
        document = await read_document(self._content, target)
        changed = await (self._index if is_index(target.media_type) else self._manifest)(target, document)
        media_type = self._media_type(target.media_type)
        if changed == document and media_type == target.media_type:
            return target
        return await self._write(target, {**changed, "mediaType": media_type}, media_type)

    def _media_type(self, media_type: str) -> str:
        return oci_media_type(media_type) if self._oci else media_type

    async def _index(self, target: Descriptor, document: Mapping[str, Any]) -> dict[str, Any]:
        what = f"index {target.digest}"
        entries = children({**document}, target.media_type, what)
        kept: list[Any] = []
        for item, entry in zip(document.get("manifests") or [], entries, strict=True):
            if entry.platform is not None and self._matches(entry.platform) is None:
                continue
            if is_index(entry.media_type) or is_manifest(entry.media_type):
                kept.append(_replaced(item, entry, await self.run(entry)))
            else:
                kept.append(item)
        if entries and not kept:
            have = ", ".join(str(entry.platform) for entry in entries)
            raise NotFound(f"{what} has nothing for this platform; it has {have}")
        return {**document, "manifests": kept}

    async def _manifest(self, target: Descriptor, document: Mapping[str, Any]) -> dict[str, Any]:
        what = f"manifest {target.digest}"
        config, *layers = children({**document}, target.media_type, what)
        items = document.get("layers") or []
        diffs = await self._diff_ids(config, layers, what)
        new_config = Descriptor(self._media_type(config.media_type), config.digest, config.size)
        converted = [await self._layer(layer, diffs.get(i)) for i, layer in enumerate(layers)]
        changed = {**document, "config": _replaced(document["config"], config, new_config)}
        if items:
            changed["layers"] = [
                _replaced(item, layer, new) for item, layer, new in zip(items, layers, converted, strict=True)
            ]
        return changed

    async def _diff_ids(self, config: Descriptor, layers: list[Descriptor], what: str) -> dict[int, str]:
        """Return the diff id for the position of each file system layer, if layers are to be packed otherwise."""
        positions = [i for i, layer in enumerate(layers) if is_layer(layer.media_type)]
        if self._compression is None or not positions:
            return {}
        found = diff_ids(await read_document(self._content, config), len(positions), what)
        return dict(zip(positions, found, strict=True))

    async def _layer(self, layer: Descriptor, diff_id: str | None) -> Descriptor:
        media_type = self._media_type(layer.media_type)
        unchanged = Descriptor(media_type, layer.digest, layer.size)
        if self._compression is None or is_non_distributable(media_type):
            return unchanged
        packed_type = layer_media_type(media_type, self._compression)
        if packed_type is None:
            return unchanged
        if (
            packed_type == media_type
            and await compression_of(self._content, layer.digest) == self._compression
        ):
            return unchanged
        packed = await repack(self._content, layer.digest, self._compression, diff_id=diff_id)
        return Descriptor(packed_type, packed.digest, packed.size)

    async def _write(self, old: Descriptor, document: dict[str, Any], media_type: str) -> Descriptor:
        data = json.dumps(document, separators=(",", ":")).encode()
        info = await self._content.info(old.digest)
        labels = {key: value for key, value in info.labels.items() if not key.startswith(_GC_LABELS)}
        labels |= gc_labels(media_type, children(document, media_type, f"converted {old.digest}"))
        digest = await self._content.write(f"convert-{unique_name()}-{old.digest}", data, labels=labels)
        return Descriptor(media_type, digest, len(data))


def _replaced(item: Mapping[str, Any], old: Descriptor, new: Descriptor) -> dict[str, Any]:
    """Return the JSON of a descriptor for other content; fields that are not known here stay."""
    changed = {**item, "mediaType": new.media_type, "digest": new.digest, "size": new.size}
    if new.digest == old.digest:
        return changed
    for key in ("data", "urls"):
        changed.pop(key, None)
    annotations = item.get("annotations")
    if isinstance(annotations, Mapping) and is_layer(new.media_type):
        changed["annotations"] = {k: v for k, v in annotations.items() if not k.startswith(_OF_BYTES)}
    return changed
