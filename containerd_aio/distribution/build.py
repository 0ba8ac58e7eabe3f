"""Small images made in Python: layers from directories or from files in memory, and a config.

Everything is deterministic: the same arguments give the same bytes, so the same digests (packed layers: with the same
release of zlib or libzstd). An image is built in memory; for large ones there are builders.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from containerd_aio.distribution._compression import check_compression, compress
from containerd_aio.distribution._layers import UNCOMPRESSED_LABEL
from containerd_aio.distribution._names import NAME_ANNOTATION, REF_NAME_ANNOTATION
from containerd_aio.distribution.manifests import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    gc_labels,
)
from containerd_aio.distribution.platforms import default_platform, parse_platform
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor

if TYPE_CHECKING:
    from containerd_aio.services.stubs import Services

__all__ = [
    "BuiltImage",
    "Entry",
    "Layer",
    "Variant",
    "build_image",
    "build_index",
    "directory_layer",
    "layer_tar",
    "store_image",
]

_EPOCH = "1970-01-01T00:00:00Z"
_LAYER_TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or symbolic link of a layer.

    Attributes:
        data: Content of a file.
        link: Target of a symbolic link; makes this one.
        directory: This is a directory.
        mode: Permission bits.
        uid: Numeric owner.
        gid: Numeric group.
        mtime: When it was changed, in seconds since 1970.
    """

    data: bytes = b""
    link: str | None = None
    directory: bool = False
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0


Layer: TypeAlias = Mapping[str, "bytes | Entry"]
"""Path -> what is there. Bytes are a file of mode 0644. ``.wh.NAME`` removes NAME of the layers below."""

LayerSource: TypeAlias = "Layer | str | PathLike[str]"
"""A layer, or the path of a directory whose content becomes one (`directory_layer` has the details)."""


@dataclass(frozen=True)
class Variant:
    """One image, for one platform.

    Attributes:
        layers: From the bottom up; paths of directories, too.
        config: The ``config`` of the OCI image config: ``Env``, ``Cmd``, ``Entrypoint``, ``User``, ``WorkingDir``...
        platform: ``os/architecture[/variant]``; None is Linux on this machine.
        compression: How layers are packed: ``none``, ``gzip`` or ``zstd``.
        created: When it was made, as RFC 3339; part of what is hashed.
    """

    layers: Sequence[LayerSource]
    config: Mapping[str, Any] = field(default_factory=dict)
    platform: str | None = None
    compression: str = "gzip"
    created: str = _EPOCH


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image in memory.

    Attributes:
        target: Its manifest or index.
        blobs: Digest -> bytes; what refers to others comes after them.
        labels: Digest -> labels that the blob has in containerd's content store.
    """

    target: Descriptor
    blobs: Mapping[str, bytes] = field(repr=False)
    labels: Mapping[str, Mapping[str, str]] = field(repr=False)

    def archive(self, name: str) -> bytes:
        """Return a tar of an OCI image layout, which `Client.import_archive`, ``ctr`` and others read.

        Args:
            name: Full name of the image, such as ``docker.io/library/app:1``.
        """
        tag = name.rpartition("/")[2].partition("@")[0].partition(":")[2]
        annotations = {NAME_ANNOTATION: name} | ({REF_NAME_ANNOTATION: tag} if tag else {})
        entry = {**self.target.to_json(), "annotations": annotations}
        files: dict[str, bytes | Entry] = {
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
            "blobs": Entry(directory=True, mode=0o755),
            "blobs/sha256": Entry(directory=True, mode=0o755),
        }
        files |= {"blobs/" + digest.replace(":", "/"): data for digest, data in self.blobs.items()}
        return layer_tar(files)


def build_image(
    *,
    layers: Sequence[LayerSource],
    config: Mapping[str, Any] | None = None,
    platform: str | None = None,
    compression: str = "gzip",
    created: str = _EPOCH,
) -> BuiltImage:
    """Build an image for one platform; the arguments are `Variant`'s.

    Raises:
        InvalidArgument: An argument is malformed, or a directory has what an image can't.
        OSError: A directory cannot be read.
    """
    return build_index(Variant(layers, dict(config or {}), platform, compression, created))


def build_index(*variants: Variant) -> BuiltImage:
    """Build one image for several platforms.

    Args:
        *variants: One for each platform. A single one gets no index.

    Raises:
        InvalidArgument: There is no variant, one is malformed, or a directory has what an image can't.
        OSError: A directory cannot be read.
    """
    if not variants:
        raise InvalidArgument("an image needs at least one variant")
    building = _Building()
    targets = [building.variant(variant) for variant in variants]
    if len(targets) == 1:
        target = Descriptor(OCI_MANIFEST, targets[0].digest, targets[0].size)
    else:
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [target.to_json() for target in targets],
        }
        target = building.add(OCI_INDEX, _json(document), gc_labels(OCI_INDEX, targets))
    return BuiltImage(target, building.blobs, building.labels)


class _Building:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.labels: dict[str, dict[str, str]] = {}

    def variant(self, variant: Variant) -> Descriptor:
        platform = default_platform() if variant.platform is None else parse_platform(variant.platform)
        compression = check_compression(variant.compression)
        layers: list[Descriptor] = []
        diff_ids: list[str] = []
        for source in variant.layers:
            tar = layer_tar(source if isinstance(source, Mapping) else directory_layer(source))
            diff_ids.append(_digest(tar))
            label = {} if compression == "none" else {UNCOMPRESSED_LABEL: diff_ids[-1]}
            layers.append(self.add(_LAYER_TYPES[compression], compress(tar, compression), label))
        config = {
            "created": variant.created,
            **platform.to_json(),
            "config": dict(variant.config),
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": variant.created, "created_by": "containerd-aio"} for _ in layers],
        }
        below = [self.add(OCI_CONFIG, _json(config), {}), *layers]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": below[0].to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        target = self.add(OCI_MANIFEST, _json(document), gc_labels(OCI_MANIFEST, below))
        return Descriptor(OCI_MANIFEST, target.digest, target.size, platform=platform)

    def add(self, media_type: str, data: bytes, labels: dict[str, str]) -> Descriptor:
        digest = _digest(data)
        self.blobs[digest] = data
        self.labels[digest] = labels
        return Descriptor(media_type, digest, len(data))


def directory_layer(
    path: str | PathLike[str],
    *,
    at: str = "",
    uid: int | None = 0,
    gid: int | None = 0,
    mtime: int | None = 0,
) -> dict[str, bytes | Entry]:
    """Return the content of a directory as a layer: files, directories, symbolic links and their permissions.

    Args:
        path: The directory. Links in it are taken as links, not followed.
        at: Where in the image it goes, such as ``opt/app``; the root by default.
        uid: Owner of everything; None keeps the owners there are.
        gid: Group of everything; None keeps the groups there are.
        mtime: Time of change of everything, in seconds since 1970; None keeps the times there are.

    Raises:
        InvalidArgument: It is no directory, or holds devices, sockets or pipes.
        OSError: It cannot be read.
    """
    root = Path(path)
    if not root.is_dir():
        raise InvalidArgument(f"{root} is no directory; a layer is made of the content of one")
    layer: dict[str, bytes | Entry] = {}
    parts = [part for part in at.split("/") if part]
    for count in range(1, len(parts) + 1):
        layer["/".join(parts[:count])] = Entry(directory=True, mode=0o755, mtime=mtime or 0)
    for folder, directories, files in os.walk(root, onerror=_raise):
        for name in (*directories, *files):
            file = Path(folder, name)
            info = file.lstat()
            layer["/".join((*parts, *file.relative_to(root).parts))] = Entry(
                data=file.read_bytes() if stat.S_ISREG(info.st_mode) else b"",
                link=str(file.readlink()) if stat.S_ISLNK(info.st_mode) else None,
                directory=stat.S_ISDIR(info.st_mode),
                mode=stat.S_IMODE(info.st_mode),
                uid=info.st_uid if uid is None else uid,
                gid=info.st_gid if gid is None else gid,
                mtime=int(info.st_mtime) if mtime is None else mtime,
            )
            if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                raise InvalidArgument(f"{file} is a device, socket or pipe; a layer can't have it")
    return layer


def _raise(error: OSError) -> None:
    raise error


def layer_tar(files: Layer) -> bytes:
    """Return an uncompressed tar of `files`, in the order of their paths.

    Raises:
        InvalidArgument: A path is absolute or leads outside.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            if not path or path.startswith("/") or ".." in path.split("/"):
                raise InvalidArgument(f"layer path {path!r}: give a path relative to the root, without '..'")
            value = files[path]
            entry = Entry(value) if isinstance(value, bytes) else value
            member = tarfile.TarInfo(path)
            member.mode, member.uid, member.gid, member.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
            if entry.link is not None:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.link, 0o777
            elif entry.directory:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))
    return out.getvalue()


async def store_image(services: Services, image: BuiltImage) -> None:
    """Put the blobs of an image into containerd's content store; hold a lease until something refers to them."""
    from containerd_aio.services.content import ContentStore

    content = ContentStore(services)
    for digest, data in image.blobs.items():
        await content.write(f"build-{digest}", data, labels=image.labels[digest])


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
