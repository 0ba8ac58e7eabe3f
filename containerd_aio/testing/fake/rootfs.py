"""What is in a container's root filesystem, as far as it decides whether its program can be started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containerd_aio.api.containerd.types import Mount


def missing_program(args: Sequence[str], env: Mapping[str, str], rootfs: Sequence[Mount]) -> str:
    """Say in runc's words that a program is not there; empty when it is, or when the root filesystem is not known.

    Without mounts the root filesystem is none of the fake's: then every program is there.
    """
    if not args:
        return "" if not rootfs else "args must not be empty"
    root = next((Path(mount.source) for mount in rootfs if mount.type == "bind"), None)
    if root is None or not root.is_dir():
        return ""
    program = args[0]
    if "/" in program:
        if _is_there(root, program):
            return ""
        return f'exec: "{program}": stat {program}: no such file or directory'
    folders = env.get("PATH", "").split(":")
    if any(_is_there(root, f"{folder}/{program}") for folder in folders):
        return ""
    return f'exec: "{program}": executable file not found in $PATH'


def _is_there(root: Path, path: str) -> bool:
    # A link may lead anywhere inside; that it is there is enough.
    return os.path.lexists(root / path.lstrip("/"))
