"""Options that take over what an image's config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import anyio.to_thread

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import mounts, process, require_linux, user
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.defaults import DEFAULT_PATH_ENV
from containerd_aio.oci.opts.process import merge_env
from containerd_aio.oci.types import Mount, Spec
from containerd_aio.oci.users import resolve_user, supplementary_gids

#: What a FreeBSD host mounts for a Linux image.
_LINUX_ON_FREEBSD: tuple[Mount, ...] = (
    {"destination": "/proc", "type": "linprocfs", "source": "linprocfs", "options": ["nosuid", "noexec"]},
    {
        "destination": "/sys",
        "type": "linsysfs",
        "source": "linsysfs",
        "options": ["nosuid", "noexec", "nodev"],
    },
)


class _Config(TypedDict):
    env: list[str]
    entrypoint: list[str]
    cmd: list[str]
    cwd: str
    user: str


def with_image_config(image_config: Mapping[str, Any] | None = None) -> SpecOpt:
    """Take environment, program, directory and user from an image (Go: WithImageConfig).

    The environment the spec has already wins over the image's; an image without one gets the default ``PATH``. The user
    is looked up in the container's root filesystem, with his supplementary groups; without one it is root, with root's.
    Volumes, ports, labels and the stop signal are not part of a spec.

    Args:
        image_config: The image's config blob, parsed, the whole of it; None takes the context's.

    Raises:
        InvalidArgument: There is no config, or it is malformed, or the spec is not for Linux or FreeBSD; or the user
            can't be looked up for want of a root filesystem.
        NoUsersFound: The image's user is not in its ``/etc/passwd``.
        NoGroupsFound: The image's group is not in its ``/etc/group``.
    """
    return with_image_config_args((), image_config)


def with_image_config_args(args: Sequence[str], image_config: Mapping[str, Any] | None = None) -> SpecOpt:
    """Do as `with_image_config`, with other arguments than the image's ``Cmd`` (Go: WithImageConfigArgs).

    Args:
        args: Appended to the image's ``Entrypoint``. Empty: the image's ``Cmd``.
        image_config: The image's config blob; None takes the context's.

    Raises:
        InvalidArgument: As `with_image_config`.
        NoUsersFound: As `with_image_config`.
        NoGroupsFound: As `with_image_config`.
    """
    given = check.texts("args", args)
    if image_config is not None:
        _parse(image_config)

    async def opt(context: SpecContext, spec: Spec) -> None:
        blob = image_config if image_config is not None else context.image_config
        if blob is None:
            raise InvalidArgument(
                "no image config: give it to with_image_config, or create the container with an image"
            )
        config = _parse(blob)
        require_linux(spec, "an image's config")
        async with context.open_rootfs(spec) as root:
            uid, gid, groups = await anyio.to_thread.run_sync(_look_up, root, config["user"])
        if context.os == "freebsd" and blob.get("os") == "linux":
            spec["mounts"] = [*(Mount(**mount) for mount in _LINUX_ON_FREEBSD), *mounts(spec)]
        section = process(spec)
        section["env"] = merge_env(config["env"] or [DEFAULT_PATH_ENV], section.get("env", ()))
        section["args"] = [*config["entrypoint"], *(given or config["cmd"])]
        section["cwd"] = config["cwd"] or "/"
        ids = user(spec)
        if config["user"]:
            ids["uid"], ids["gid"] = uid, gid
        primary = ids.get("gid", 0)
        ids["additionalGids"] = groups if primary in groups else [primary, *groups]

    return opt


def _look_up(root: Path, who: str) -> tuple[int, int, list[int]]:
    if not who:
        return 0, 0, supplementary_gids(root, "root")
    uid, gid = resolve_user(root, who)
    return uid, gid, supplementary_gids(root, uid)


def _parse(blob: Mapping[str, Any]) -> _Config:
    """Read the parts of a config blob that matter here, in the form they are needed."""
    if not isinstance(blob, Mapping):
        raise InvalidArgument(f"an image config is a JSON object, not {blob!r}")
    if "config" not in blob and blob.keys() & {"Cmd", "Entrypoint", "Env", "User", "WorkingDir"}:
        raise InvalidArgument(
            "this is the inner part of an image config: give the whole blob, which has it as 'config'"
        )
    config = blob.get("config") or {}
    return {
        "env": check.texts("Env of the image", config.get("Env") or ()),
        "entrypoint": check.texts("Entrypoint of the image", config.get("Entrypoint") or ()),
        "cmd": check.texts("Cmd of the image", config.get("Cmd") or ()),
        "cwd": check.text("WorkingDir of the image", config.get("WorkingDir") or ""),
        "user": check.text("User of the image", config.get("User") or ""),
    }
