"""Manifests, indexes and image configs: reading them, and what they refer to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.services.content import READ_ALL_LIMIT
from containerd_aio.services.descriptor import Descriptor, Platform

if TYPE_CHECKING:
    from containerd_aio.distribution.platforms import Matcher
    from containerd_aio.services.content import ContentStore

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.diff.",
    "application/vnd.docker.image.rootfs.foreign.diff.",
)


def is_index(media_type: str) -> bool:
    """Tell whether this is the media type of an index (Docker: manifest list)."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Tell whether this is the media type of the manifest of one image."""
    return media_type in _MANIFESTS


def is_layer(media_type: str) -> bool:
    """Tell whether this is the media type of a file system layer."""
    return media_type.startswith(_LAYER_PREFIXES)


def is_non_distributable(media_type: str) -> bool:
    """Tell whether this is the media type of a layer that must not be passed on (Docker: foreign layer)."""
    return media_type.startswith(
        (
            "application/vnd.oci.image.layer.nondistributable.",
            "application/vnd.docker.image.rootfs.foreign.diff.",
        )
    )


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Raises:
        InvalidArgument: It is no JSON object; the text names it by `what`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise InvalidArgument(f"{what} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is not a JSON object")
    return value


def check_unambiguous(value: dict[str, Any], media_type: str, what: str) -> None:
    """Refuse a document that can be taken for both a manifest and an index (CVE-2021-41190).

    Raises:
        InvalidArgument: It has fields of the other kind, or a media type of its own that differs.
    """
    wrong = {"config", "layers"} if is_index(media_type) else {"manifests"}
    found = sorted(wrong & value.keys())
    if found:
        kind = "an index" if is_index(media_type) else "a manifest"
        raise InvalidArgument(f"{what} is {kind} but has {', '.join(found)}")
    own = value.get("mediaType")
    if own and own != media_type:
        raise InvalidArgument(f"{what} says it is {own} and is referred to as {media_type}")


async def read_document(content: ContentStore, target: Descriptor) -> dict[str, Any]:
    """Return a manifest, index or config as parsed JSON; its digest is checked.

    Raises:
        NotFound: The content is not there.
        InvalidArgument: It is not what the descriptor says, or malformed.
    """
    what = f"{target.media_type or 'content'} {target.digest}"
    data = await content.read_all(target.digest, limit=READ_ALL_LIMIT)
    algorithm, _, expected = target.digest.partition(":")
    if hashlib.new(algorithm, data).hexdigest() != expected:
        raise InvalidArgument(f"{what}: the stored bytes have another digest")
    value = parse_json(data, what)
    if is_index(target.media_type) or is_manifest(target.media_type):
        check_unambiguous(value, target.media_type, what)
    return value


def descriptors(value: dict[str, Any], key: str, what: str) -> list[Descriptor]:
    """Return the list of descriptors in the field `key`.

    Raises:
        InvalidArgument: It is no such list.
    """
    items = value.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise InvalidArgument(f"{what}: {key} is not a list")
    return [Descriptor.from_json(item) for item in items]


def children(value: dict[str, Any], media_type: str, what: str) -> list[Descriptor]:
    """Return what a manifest (config first, then layers) or an index refers to.

    Raises:
        InvalidArgument: It is malformed.
    """
    if is_index(media_type):
        return descriptors(value, "manifests", what)
    if not is_manifest(media_type):
        return []
    if "config" not in value:
        raise InvalidArgument(f"{what} has no config")
    return [Descriptor.from_json(value["config"]), *descriptors(value, "layers", what)]


def gc_labels(media_type: str, kept: list[Descriptor]) -> dict[str, str]:
    """Return the labels that keep the children of an object (Go: images.ChildGCLabels).

    Args:
        media_type: Of the object that gets the labels.
        kept: Its children, config first, as `children` returns them.
    """
    prefix = "containerd.io/gc.ref.content."
    if is_index(media_type):
        return {f"{prefix}m.{i}": child.digest for i, child in enumerate(kept)}
    labels = {f"{prefix}config": child.digest for child in kept[:1]}
    return labels | {f"{prefix}l.{i}": child.digest for i, child in enumerate(kept[1:])}


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """The manifest of one image, read.

    Attributes:
        target: Where it is.
        config: Descriptor of the image config.
        layers: Descriptors of the layers, from the bottom up.
        document: The manifest as JSON.
    """

    target: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    document: dict[str, Any]


def parse_manifest(target: Descriptor, document: dict[str, Any]) -> ImageManifest:
    """Return the manifest in `document`.

    Raises:
        InvalidArgument: It is malformed.
    """
    config, *layers = children(document, target.media_type, f"manifest {target.digest}")
    return ImageManifest(target, config, tuple(layers), document)


async def resolve_manifest(content: ContentStore, target: Descriptor, matches: Matcher) -> ImageManifest:
    """Return the manifest for a platform: `target` itself, or the best one in the index that it is.

    Entries of an index that name no platform come last and are judged by their config (Go: images.Manifest).

    Raises:
        NotFound: There is none for the platform; the text lists those there are. Or the content is not there.
        InvalidArgument: A document is malformed, or `target` is neither an index nor a manifest.
    """
    if is_manifest(target.media_type):
        return parse_manifest(target, await read_document(content, target))
    if not is_index(target.media_type):
        raise InvalidArgument(f"{target.digest} is a {target.media_type!r}, neither an index nor a manifest")
    document = await read_document(content, target)
    entries = children(document, target.media_type, f"index {target.digest}")
    seen: list[str] = []
    for entry in _ranked(entries, matches):
        try:
            manifest = await resolve_manifest(content, entry, matches)
        except NotFound:
            if entry.platform is None or is_index(entry.media_type):
                continue  # not for us, or never fetched
            raise
        if entry.platform is None and is_manifest(entry.media_type):
            platform = await config_platform(content, manifest.config)
            if matches(platform) is None:
                seen.append(str(platform))
                continue
        return manifest
    seen += [str(entry.platform) for entry in entries if entry.platform is not None]
    raise NotFound(
        f"index {target.digest} has no manifest for this platform; it has {', '.join(seen) or 'none'}"
    )


def _ranked(entries: list[Descriptor], matches: Matcher) -> list[Descriptor]:
    """Return the index entries worth a look, the best first."""
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, entry in enumerate(entries):
        if not (is_index(entry.media_type) or is_manifest(entry.media_type)):
            continue
        rank = 1 << 30 if entry.platform is None else matches(entry.platform)
        if rank is not None:
            ranked.append((rank, position, entry))
    return [entry for _, _, entry in sorted(ranked, key=lambda item: item[:2])]


async def config_platform(content: ContentStore, config: Descriptor) -> Platform:
    """Return the platform that an image config names.

    Raises:
        NotFound: The config is not in the content store.
    """
    return Platform.from_json(await read_document(content, config))


def diff_ids(config: dict[str, Any], layers: int, what: str) -> list[str]:
    """Return the diff ids of an image config: the digests of its uncompressed layers, from the bottom up.

    Args:
        config: The image config.
        layers: How many layers the manifest has.
        what: Names the image in errors.

    Raises:
        InvalidArgument: They are malformed, or of another number than the layers.
    """
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidArgument(f"{what}: the image config has no rootfs.diff_ids")
    if len(found) != layers:
        raise InvalidArgument(
            f"{what}: the manifest has {layers} layers and the config {len(found)} diff ids"
        )
    return found


def chain_ids(diff_ids: list[str]) -> list[str]:
    """Return the name of the snapshot after each layer, from the bottom up (OCI image specification, "ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        if not chain:
            chain.append(diff_id)
        else:
            text = f"{chain[-1]} {diff_id}"
            chain.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
    return chain


def chain_id(diff_ids: list[str]) -> str:
    """Return the name of the snapshot with all layers; empty for an image without any."""
    return chain_ids(diff_ids)[-1] if diff_ids else ""
