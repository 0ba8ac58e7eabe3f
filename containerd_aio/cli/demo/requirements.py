"""What the demo needs, and how to get what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_aio.errors import FailedPrecondition, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.services.introspection import Plugin

_FILESYSTEMS = Path("/proc/filesystems")
_MODULES = Path("/lib/modules")
_CURE = "Debian and Ubuntu: apt-get install --no-install-recommends {}"


def check_requirements(binary: str | None) -> str:
    """Make sure that containers can be run here.

    Args:
        binary: The containerd to use; None looks on ``PATH``.

    Returns:
        Path of containerd.

    Raises:
        PermissionDenied: We are not root.
        FailedPrecondition: Something is not installed, or the kernel can't do it; the text says what to do.
        InvalidArgument: There is no static busybox.
    """
    from containerd_aio.testing.images import find_busybox

    if os.geteuid() != 0:
        raise PermissionDenied(
            "the demo starts a containerd of its own and needs root: sudo containerd-aio demo"
        )
    path = _search_path()
    containerd = binary or shutil.which("containerd", path=path)
    if containerd is None:
        raise FailedPrecondition(f"there is no containerd on PATH. {_CURE.format('containerd runc')}")
    beside = f"{Path(containerd).absolute().parent}{os.pathsep}{path}"
    for program, package in (("runc", "runc"), ("containerd-shim-runc-v2", "containerd")):
        if shutil.which(program, path=beside) is None:
            raise FailedPrecondition(f"there is no {program} on PATH. {_CURE.format(package)}")
    find_busybox()
    _check_overlayfs()
    return containerd


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def _check_overlayfs() -> None:
    """Refuse a kernel without overlayfs. One that has it as a module may not have loaded it yet."""
    if "\toverlay\n" in _FILESYSTEMS.read_text(encoding="ascii"):
        return
    release = os.uname().release
    if not any(Path(_MODULES, release).glob("kernel/fs/overlayfs/overlay.ko*")):
        raise FailedPrecondition(
            f"this kernel ({release}) has no overlayfs. Use one with CONFIG_OVERLAY_FS, as every distribution's has"
        )


def check_snapshotter(plugins: Sequence[Plugin]) -> None:
    """Refuse a containerd that found out that it can't use overlayfs where it keeps its data.

    Args:
        plugins: Its snapshotter plugins.

    Raises:
        FailedPrecondition: It can't.
    """
    overlayfs = next((plugin for plugin in plugins if plugin.id == "overlayfs"), None)
    problem = "it was built without" if overlayfs is None else overlayfs.init_error
    if problem is not None:
        raise FailedPrecondition(
            f"this containerd can't use overlayfs in /var/lib: {problem}. A container's own root filesystem won't do "
            "for it: mount a volume or a tmpfs there, or run this on the machine itself"
        )
