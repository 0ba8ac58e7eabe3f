"""The archive that ``docker save`` wrote before it knew OCI layouts: ``manifest.json`` and what it names."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from containerd_aio.distribution._compression import detect
from containerd_aio.distribution._layers import repack
from containerd_aio.distribution._names import NAME_ANNOTATION, REF_NAME_ANNOTATION
from containerd_aio.distribution._tar import clean_path
from containerd_aio.distribution.manifests import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    children,
    gc_labels,
    parse_json,
)
from containerd_aio.distribution.platforms import normalize
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor, Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio.services.content import ContentStore

_LAYER_TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}

_MAX_LINKS = 10


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of the archive that is in the content store now.

    Attributes:
        digest: Its digest.
        size: Its size in bytes.
        magic: Its first bytes, which tell how it is compressed.
    """

    digest: str
    size: int
    magic: bytes = b""


@dataclass(frozen=True, slots=True)
class _Item:
    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]


async def docker_entries(
    content: ContentStore,
    manifest_json: bytes,
    files: Mapping[str, Blob],
    links: Mapping[str, str],
    *,
    prefix: str,
    compress: bool = False,
) -> list[Descriptor]:
    """Write an OCI manifest for each image of the archive, and return what an ``index.json`` would list.

    Args:
        content: Where the files are; the manifests are put there.
        manifest_json: The file of that name.
        files: Path -> the regular files.
        links: Path -> target of the links, by which images share layers.
        prefix: What ingests are called.
        compress: Pack layers that are plain with gzip.

    Raises:
        InvalidArgument: The file is malformed, or names what is not in the archive.
    """
    entries: list[Descriptor] = []
    for item in _parse(manifest_json):
        config = _find(item.config, files, links)
        described = parse_json(await content.read_all(config.digest), f"image config {item.config}")
        layers = [await _layer(content, _find(path, files, links), compress=compress) for path in item.layers]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, config.digest, config.size).to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        data = json.dumps(document, separators=(",", ":")).encode()
        labels = gc_labels(OCI_MANIFEST, children(document, OCI_MANIFEST, "manifest"))
        digest = await content.write(f"{prefix}manifest-{config.digest}", data, labels=labels)
        target = Descriptor(OCI_MANIFEST, digest, len(data), platform=_platform(described))
        entries += [replace(target, annotations=_annotations(tag)) for tag in item.tags] or [target]
    return entries


def _parse(data: bytes) -> list[_Item]:
    try:
        items: Any = json.loads(data)
        if not isinstance(items, list):
            raise TypeError("not a list")  # noqa: TRY301 - one except for all
        return [
            _Item(str(i["Config"]), tuple(map(str, i["Layers"] or ())), tuple(map(str, i["RepoTags"] or ())))
            for i in items
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise InvalidArgument(
            f"the archive's manifest.json is not Docker's list of Config, RepoTags and Layers: {exc!r}"
        ) from exc


async def _layer(content: ContentStore, blob: Blob, *, compress: bool) -> Descriptor:
    compression = detect(blob.magic)
    if not compress or compression != "none":
        return Descriptor(_LAYER_TYPES[compression], blob.digest, blob.size)
    packed = await repack(content, blob.digest, "gzip", diff_id=blob.digest)
    return Descriptor(OCI_LAYER_GZIP, packed.digest, packed.size)


def _platform(config: Mapping[str, Any]) -> Platform | None:
    """Return the platform of an image config, which need not be written as it should (``AMD64``), or be there."""
    platform = normalize(Platform.from_json(config))
    return platform if platform.os and platform.architecture else None


def _annotations(tag: str) -> dict[str, str]:
    reference = parse_familiar(tag)
    return {
        NAME_ANNOTATION: str(reference),
        REF_NAME_ANNOTATION: reference.tag,
    }


def _find(path: str, files: Mapping[str, Blob], links: Mapping[str, str]) -> Blob:
    at = clean_path(path)
    for _ in range(_MAX_LINKS):
        if at in files:
            return files[at]
        if at not in links:
            break
        at = clean_path(posixpath.join(posixpath.dirname(at), links[at]))
    raise InvalidArgument(f"the archive is incomplete: its manifest.json names {path}, which is not there")
