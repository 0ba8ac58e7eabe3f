"""Image archives made in Python: what tests and demonstrations run when nothing may be pulled.

Everything is deterministic; `containerd_aio.distribution.build` makes the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from containerd_aio.distribution.build import (
    Entry,
    Layer,
    LayerSource,
    Variant,
    build_index,
    layer_tar,
)
from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from os import PathLike

__all__ = [
    "Compression",
    "Entry",
    "Layer",
    "Variant",
    "build_image_archive",
    "build_index_archive",
    "busybox_image",
    "find_busybox",
    "layer_tar",
]

Compression = Literal["gzip", "none", "zstd"]

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


def build_image_archive(
    path: str | PathLike[str],
    name: str,
    *,
    layers: Sequence[LayerSource],
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
    image = build_index(*variants)
    path = Path(path)
    path.write_bytes(image.archive(name))
    return path


def busybox_image(
    path: str | PathLike[str],
    name: str = "docker.io/library/busybox:latest",
    *,
    extra_layers: Sequence[LayerSource] = (),
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
