"""containerd.services.diff.v1.Diff: layers to files and back."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.services.diff.v1 import (
    ApplyRequest,
    ApplyResponse,
    DiffBase,
    DiffRequest,
    DiffResponse,
)
from containerd_aio.api.containerd.types import Descriptor
from containerd_aio.testing.fake.call import refuse, refuse_plainly, required_namespace
from containerd_aio.testing.fake.content import Blob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.api.containerd.types import Mount
    from containerd_aio.testing.fake.world import World

_TAR = "application/vnd.oci.image.layer.v1.tar"
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


class DiffService(DiffBase):
    """Applies and makes layers, with the mounts that the fake's own snapshotters give: a directory each."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def apply(self, message: ApplyRequest) -> ApplyResponse:
        """Unpack a layer into mounts."""
        records = self._world.store.look(required_namespace())
        layer = message.diff or Descriptor()
        if layer.digest not in records.blobs:
            text = f"failed to get reader from content store: content digest {layer.digest}"
            raise refuse(Status.NOT_FOUND, text)
        data = decompress(self._world.store.data[layer.digest])
        target = _directory(message.mounts)
        if target is not None:
            extract(data, target)
        return ApplyResponse(applied=Descriptor(media_type=_TAR, digest=_digest(data), size=len(data)))

    async def diff(self, message: DiffRequest) -> DiffResponse:
        """Make a layer of what differs between two mounts, and store it."""
        media_type = message.media_type or _TAR + "+gzip"
        if media_type not in {_TAR, _TAR + "+gzip"}:
            raise refuse(Status.UNIMPLEMENTED, f"unsupported diff media type: {media_type}")
        tar = difference(_directory(message.left), _directory(message.right))
        data = gzip.compress(tar, mtime=0) if media_type.endswith("gzip") else tar
        digest, now = _digest(data), self._world.clock.timestamp()
        labels = dict(message.labels)
        if data is not tar:
            labels["containerd.io/uncompressed"] = _digest(tar)
        self._world.store.data[digest] = data
        blobs = self._world.store.change(required_namespace()).blobs
        blobs.setdefault(digest, Blob(digest, len(data), now, now, labels))
        return DiffResponse(diff=Descriptor(media_type=media_type, digest=digest, size=len(data)))


def _directory(mounts: Sequence[Mount]) -> Path | None:
    if not mounts:
        return None
    if len(mounts) > 1 or mounts[0].type != "bind":
        raise refuse_plainly(
            Status.UNKNOWN, "the fake works only with the mounts of its own snapshotters: one bind mount"
        )
    return Path(mounts[0].source)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def decompress(data: bytes) -> bytes:
    """Return the tar of a layer that is plain, gzip, or Zstandard in stored blocks (`testing.images` makes these).

    Raises:
        GRPCError: It is neither.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[:4] == b"\x28\xb5\x2f\xfd":
            return _stored_blocks(data)
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        raise refuse_plainly(Status.UNKNOWN, f"failed to extract layer: {exc}") from exc
    return data


def _stored_blocks(data: bytes) -> bytes:
    if data[4] != 0xE0:
        raise ValueError("the fake reads only Zstandard frames of stored blocks")
    out, position = [], 13
    while True:
        header = int.from_bytes(data[position : position + 3], "little")
        position += 3
        if header >> 1 & 3:
            raise ValueError("the fake reads only Zstandard frames of stored blocks")
        out.append(data[position : position + (header >> 3)])
        position += header >> 3
        if header & 1:
            return b"".join(out)


def extract(tar: bytes, target: Path) -> None:
    """Unpack a layer: whiteouts remove, devices and owners are left out.

    Raises:
        GRPCError: It is not a tar archive, or leads outside.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                _extract_member(archive, member, target)
    except (tarfile.TarError, OSError) as exc:
        raise refuse_plainly(Status.UNKNOWN, f"failed to extract layer: {exc}") from exc


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    path = target / member.name.lstrip("/")
    if path.name == _OPAQUE:
        for child in list(path.parent.iterdir()):
            _remove(child)
    elif path.name.startswith(_WHITEOUT):
        _remove(path.with_name(path.name.removeprefix(_WHITEOUT)))
    elif not (member.ischr() or member.isblk() or member.isfifo()):
        if not (member.isdir() and path.is_dir() and not path.is_symlink()):
            _remove(path)  # never write through a hard link into the snapshot below
        member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
        archive.extract(member, target, filter="tar")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def difference(left: Path | None, right: Path | None) -> bytes:
    """Return a layer that turns `left` into `right`."""
    below, above = _tree(left), _tree(right)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(above):
            if name not in below or not _same(below[name], above[name]):
                archive.add(above[name], name, recursive=False)
        for name in sorted(below.keys() - above.keys()):
            if str(Path(name).parent) in {".", *above}:
                archive.addfile(tarfile.TarInfo(str(Path(name).with_name(_WHITEOUT + Path(name).name))))
    return out.getvalue()


def _tree(root: Path | None) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in root.rglob("*")} if root else {}


def _same(one: Path, other: Path) -> bool:
    a, b = one.lstat(), other.lstat()
    if a.st_mode != b.st_mode:
        return False
    if stat.S_ISLNK(a.st_mode):
        return one.readlink() == other.readlink()
    return stat.S_ISDIR(a.st_mode) or one.read_bytes() == other.read_bytes()
