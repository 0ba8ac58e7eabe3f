"""The archive that ``docker save`` wrote before it knew OCI layouts: ``manifest.json`` and what it names."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor, Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio.services.content import ContentStore

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
    content: ContentStore, manifest_json: bytes, files: Mapping[str, Blob], links: Mapping[str, str]
) -> list[Descriptor]:
    """Write an OCI manifest for each image of the archive, and return what an ``index.json`` would list.

    Args:
        content: Where the files are; the manifests are put there.
        manifest_json: The file of that name.
        files: Path -> the regular files.
        links: Path -> target of the symbolic links, by which images share layers.

    Raises:
        InvalidArgument: The file is malformed, or names what is not in the archive.
    """
    entries: list[Descriptor] = []
    for item in _parse(manifest_json):
        config = _find(item.config, files, links)
        layers = [_find(path, files, links) for path in item.layers]
        described = parse_json(await content.read_all(config.digest), f"image config {item.config}")
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, config.digest, config.size).to_json(),
            "layers": [Descriptor(_layer_type(b), b.digest, b.size).to_json() for b in layers],
        }
        data = json.dumps(document, separators=(",", ":")).encode()
        labels = gc_labels(OCI_MANIFEST, children(document, OCI_MANIFEST, "manifest"))
        digest = await content.write(f"import-manifest-{config.digest}", data, labels=labels)
        target = Descriptor(OCI_MANIFEST, digest, len(data), platform=Platform.from_json(described))
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
    except (ValueError, TypeError, KeyError) as exc:
        raise InvalidArgument(
            f"the archive's manifest.json is not Docker's list of Config, RepoTags and Layers: {exc!r}"
        ) from exc


def _annotations(tag: str) -> dict[str, str]:
    reference = parse_familiar(tag)
    return {
        "io.containerd.image.name": str(reference),
        "org.opencontainers.image.ref.name": reference.tag,
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


def _layer_type(blob: Blob) -> str:
    if blob.magic.startswith(b"\x1f\x8b"):
        return OCI_LAYER_GZIP
    return OCI_LAYER_ZSTD if blob.magic.startswith(b"\x28\xb5\x2f\xfd") else OCI_LAYER
