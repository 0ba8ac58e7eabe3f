"""Options that take over what an image's config says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    args_escaped: bool


def with_image_config(image_config: Mapping[str, Any] | None = None) -> SpecOpt:
    """Take environment, program, directory and user from an image (Go: WithImageConfig).

    The environment the spec has already wins over the image's; an image without one gets the default ``PATH``. The user
    is looked up in the container's root filesystem, with his supplementary groups; without one it is root, with root's.
    Volumes, ports, labels and the stop signal are not part of a spec. For Windows the user's name is stored, and an image
    whose arguments are escaped (``ArgsEscaped``) gives a command line.

    Args:
        image_config: The image's config blob, parsed, the whole of it; None takes the context's.

    Raises:
        InvalidArgument: There is no config, or it is malformed, or the spec is for another system than Linux, FreeBSD
            or Windows; or the user can't be looked up for want of a root filesystem.
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
        if "linux" not in spec and "windows" in spec:
            _on_windows(spec, config, given)
            return
        require_linux(spec, "an image's config")
        apply_user = await _user_of(context, spec, config["user"])
        if context.os == "freebsd" and blob.get("os") == "linux":
            spec["mounts"] = [*(Mount(**mount) for mount in _LINUX_ON_FREEBSD), *mounts(spec)]
        section = process(spec)
        section["env"] = merge_env(config["env"] or [DEFAULT_PATH_ENV], section.get("env", ()))
        section["args"] = [*config["entrypoint"], *(given or config["cmd"])]
        section["cwd"] = config["cwd"] or "/"
        apply_user()

    return opt


async def _user_of(context: SpecContext, spec: Spec, who: str) -> Callable[[], None]:
    """Look the image's user up; what is returned writes it into the spec."""
    if "windows" in spec:  # in a utility VM the guest looks up

        def named() -> None:
            if who:
                ids = user(spec)
                ids["username"], ids["additionalGids"] = who, [ids.get("gid", 0)]

        return named
    async with context.open_rootfs(spec) as root:
        uid, gid, groups = await anyio.to_thread.run_sync(_look_up, root, who)

    def numbered() -> None:
        ids = user(spec)
        if who:
            ids["uid"], ids["gid"] = uid, gid
        primary = ids.get("gid", 0)
        ids["additionalGids"] = groups if primary in groups else [primary, *groups]

    return numbered


def _on_windows(spec: Spec, config: _Config, args: list[str]) -> None:
    """Do what Go does for a spec with a windows section alone.

    With ``ArgsEscaped`` the image's program is a command line already, its first element; only what comes after it is
    quoted. That is not so when the image has no entrypoint and the caller gave all the arguments.
    """
    from subprocess import list2cmdline  # seldom needed, and slow to load

    command = [*config["entrypoint"], *(args or config["cmd"])]
    if not command:
        raise InvalidArgument("the image has neither Entrypoint nor Cmd; give arguments")
    section = process(spec)
    section["env"] = merge_env(config["env"], section.get("env", ()))
    if config["args_escaped"] and (config["entrypoint"] or not args):
        section.pop("args", None)
        section["commandLine"] = " ".join([command[0], *([list2cmdline(command[1:])] if command[1:] else [])])
    else:
        section.pop("commandLine", None)
        section["args"] = command
    section["cwd"] = config["cwd"]
    section["user"] = {"uid": 0, "gid": 0, "username": config["user"]}


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
        "args_escaped": check.boolean("ArgsEscaped of the image", config.get("ArgsEscaped") or False),
    }
