"""OCI images made in Python: what tests and demonstrations run when nothing may be pulled.

Everything is deterministic: the same arguments give the same bytes, so the same digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from os import PathLike

Compression = Literal["gzip", "none", "zstd"]

_OCI = "application/vnd.oci.image."
_LAYER_TYPES: dict[str, str] = {
    "gzip": _OCI + "layer.v1.tar+gzip",
    "none": _OCI + "layer.v1.tar",
    "zstd": _OCI + "layer.v1.tar+zstd",
}

# Where Debian and others put the static build of busybox.
_BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static", "/usr/lib/busybox/busybox")

# What a shell script in a container can count on; the binary has more applets, called as `busybox NAME`.
_APPLETS = (
    "[ awk base64 basename cat chgrp chmod chown cp cut date dd df dirname du echo env expr false find free grep gzip "
    "head hostname id ifconfig ip kill ln ls md5sum mkdir mkfifo mknod mktemp mount mv nc nice nohup od ping printenv "
    "printf ps pwd readlink realpath rm rmdir route sed seq sh sha256sum sleep sort stat stty sync tail tar tee test "
    "timeout top touch tr true tty umount uname uniq uptime usleep vi wc wget which whoami xargs yes"
)

_DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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
    """

    data: bytes = b""
    link: str | None = None
    directory: bool = False
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


Layer = Mapping[str, "bytes | Entry"]
"""Path -> what is there. Bytes are a file of mode 0644. ``.wh.NAME`` removes NAME of the layers below."""


@dataclass(frozen=True)
class Variant:
    """One image of a multi-platform archive.

    Attributes:
        layers: From the bottom up.
        config: The ``config`` of the OCI image config: ``Env``, ``Cmd``, ``Entrypoint``, ``User``, ``WorkingDir``...
        platform: ``os/architecture[/variant]``; None is Linux on this machine.
        compression: How layers are packed; ``zstd`` is a valid frame of stored blocks.
    """

    layers: Sequence[Layer]
    config: Mapping[str, Any] = field(default_factory=dict)
    platform: str | None = None
    compression: Compression = "gzip"


def build_image_archive(
    path: str | PathLike[str],
    name: str,
    *,
    layers: Sequence[Layer],
    config: Mapping[str, Any] | None = None,
    platform: str | None = None,
    compression: Compression = "gzip",
) -> Path:
    """Write an OCI image archive (a tar of an OCI image layout) with one image.

    Args:
        path: The file to write.
        name: Full name of the image, such as ``docker.io/library/busybox:latest``.
        layers: See `Variant`, as the others.
        config: As above.
        platform: As above.
        compression: As above.

    Returns:
        `path`.

    Raises:
        InvalidArgument: An argument is malformed.
    """
    return build_index_archive(path, name, Variant(layers, dict(config or {}), platform, compression))


def build_index_archive(path: str | PathLike[str], name: str, *variants: Variant) -> Path:
    """Write an OCI image archive with one image for several platforms.

    Args:
        path: The file to write.
        name: Full name of the image.
        *variants: One for each platform. A single one is written without an image index of its own.

    Returns:
        `path`.

    Raises:
        InvalidArgument: There is no variant, or one is malformed.
    """
    if not variants:
        raise InvalidArgument("an image needs at least one variant")
    blobs: dict[str, bytes] = {}
    targets = [_add_variant(blobs, variant) for variant in variants]
    if len(targets) == 1:
        target = {key: value for key, value in targets[0].items() if key != "platform"}
    else:
        index = {"schemaVersion": 2, "mediaType": _OCI + "index.v1+json", "manifests": targets}
        target = _add(blobs, _OCI + "index.v1+json", _json(index))
    tag = name.rpartition("/")[2].partition("@")[0].partition(":")[2]
    target["annotations"] = {"io.containerd.image.name": name}
    if tag:
        target["annotations"]["org.opencontainers.image.ref.name"] = tag
    files: dict[str, bytes | Entry] = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [target]}),
        "blobs": Entry(directory=True, mode=0o755),
        "blobs/sha256": Entry(directory=True, mode=0o755),
    }
    files |= {"blobs/" + digest.replace(":", "/"): data for digest, data in blobs.items()}
    path = Path(path)
    path.write_bytes(layer_tar(files))
    return path


def busybox_image(
    path: str | PathLike[str],
    name: str = "docker.io/library/busybox:latest",
    *,
    extra_layers: Sequence[Layer] = (),
    config: Mapping[str, Any] | None = None,
    compression: Compression = "gzip",
    busybox: str | PathLike[str] | None = None,
) -> Path:
    """Write an archive of an image with a shell and the usual tools, from this machine's static busybox.

    Args:
        path: The file to write.
        name: Full name of the image.
        extra_layers: Layers above busybox's.
        config: Fields of the image config; by default ``PATH`` is set and ``sh`` is the command.
        compression: How layers are packed.
        busybox: The binary; by default it is looked for.

    Returns:
        `path`.

    Raises:
        InvalidArgument: There is no busybox here, or not a static one.
    """
    binary = find_busybox(busybox)
    base: dict[str, bytes | Entry] = {
        name: Entry(directory=True, mode=0o755)
        for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "var")
    }
    base["tmp"] = Entry(directory=True, mode=0o1777)
    base["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    base["etc/group"] = b"root:x:0:\nnogroup:x:65534:\n"
    base["bin/busybox"] = Entry(binary.read_bytes(), mode=0o755)
    base |= {f"bin/{applet}": Entry(link="busybox") for applet in _APPLETS.split()}
    return build_image_archive(
        path,
        name,
        layers=[base, *extra_layers],
        config={"Env": [_DEFAULT_PATH], "Cmd": ["sh"], **(config or {})},
        compression=compression,
    )


def find_busybox(path: str | PathLike[str] | None = None) -> Path:
    """Return the path of a statically linked busybox.

    Args:
        path: Look only there.

    Raises:
        InvalidArgument: There is none; the text says which package has it.
    """
    cure = "install the package busybox-static (Debian, Ubuntu), or name the binary of another static build"
    places = _BUSYBOX_PLACES if path is None else (path,)
    found = next((Path(place) for place in places if Path(place).is_file()), None)
    if found is None:
        raise InvalidArgument(f"there is no busybox at {', '.join(map(str, places))}; {cure}")
    if not _is_static_elf(found.read_bytes()):
        raise InvalidArgument(
            f"{found} is not a statically linked ELF binary, so it would not run in an image of its own; {cure}"
        )
    return found


def _is_static_elf(data: bytes) -> bool:
    """Tell whether `data` is an ELF binary that asks for no dynamic loader (has no PT_INTERP segment)."""
    if data[:4] != b"\x7fELF" or len(data) < 64:
        return False
    order: Literal["little", "big"] = "little" if data[5] == 1 else "big"
    wide = data[4] == 2

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    table = number(0x20, 8) if wide else number(0x1C, 4)
    entry_size, count = (number(0x36, 2), number(0x38, 2)) if wide else (number(0x2A, 2), number(0x2C, 2))
    return all(number(table + i * entry_size, 4) != 3 for i in range(count))


def layer_tar(files: Layer) -> bytes:
    """Return an uncompressed tar of `files`, in the order of their paths, all dated 1970.

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
            member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
            if entry.link is not None:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.link, 0o777
            elif entry.directory:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(entry.data)
            tar.addfile(member, io.BytesIO(entry.data))
    return out.getvalue()


def compress(data: bytes, compression: Compression) -> bytes:
    """Return `data` in the compressed form asked for, always the same bytes for the same data.

    Raises:
        InvalidArgument: The compression is not known.
    """
    match compression:
        case "none":
            return data
        case "gzip":
            return gzip.compress(data, compresslevel=6, mtime=0)
        case "zstd":
            return _zstd_stored(data)
        case _:
            raise InvalidArgument(f"compression {compression!r} is not one of {', '.join(_LAYER_TYPES)}")


def _zstd_stored(data: bytes) -> bytes:
    """Return a Zstandard frame of raw blocks (RFC 8878): valid everywhere, and needs no encoder."""
    # Descriptor 0xE0: content size in eight bytes, single segment, no checksum.
    out = [b"\x28\xb5\x2f\xfd\xe0", len(data).to_bytes(8, "little")]
    block = 128 << 10
    starts = range(0, len(data), block) or range(1)
    for start in starts:
        chunk = data[start : start + block]
        last = start + block >= len(data)
        out += [(len(chunk) << 3 | last).to_bytes(3, "little"), chunk]
    return b"".join(out)


def _add_variant(blobs: dict[str, bytes], variant: Variant) -> dict[str, Any]:
    from containerd_aio.distribution.platforms import default_platform, parse_platform

    platform = default_platform() if variant.platform is None else parse_platform(variant.platform)
    tars = [layer_tar(layer) for layer in variant.layers]
    layer_type = _LAYER_TYPES.get(variant.compression, "")
    layers = [_add(blobs, layer_type, compress(tar, variant.compression)) for tar in tars]
    config = {
        "created": "1970-01-01T00:00:00Z",
        **platform.to_json(),
        "config": dict(variant.config),
        "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "containerd-aio"} for _ in tars],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _OCI + "manifest.v1+json",
        "config": _add(blobs, _OCI + "config.v1+json", _json(config)),
        "layers": layers,
    }
    return {**_add(blobs, _OCI + "manifest.v1+json", _json(manifest)), "platform": platform.to_json()}


def _add(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    blobs[digest] = data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
