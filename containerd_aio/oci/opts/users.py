"""Options for the user and the groups of the process.

Names are looked up in the container's own ``/etc/passwd`` and ``/etc/group``, which `SpecContext.open_rootfs` provides.
The primary gid is always among the supplementary ones, in front unless it was listed anyway (CVE-2023-25173).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import user
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.types import Spec
from containerd_aio.oci.users import (
    needs_lookup,
    parse_user,
    resolve_groups,
    resolve_user,
    supplementary_gids,
    user_by_name,
)

_T = TypeVar("_T")


async def _in_rootfs(context: SpecContext, spec: Spec, look_up: Callable[[Path], _T]) -> _T:
    async with context.open_rootfs(spec) as root:
        return await anyio.to_thread.run_sync(look_up, root)


def _set_ids(spec: Spec, uid: int, gid: int) -> None:
    section = user(spec)
    section["uid"], section["gid"] = uid, gid
    section["additionalGids"] = [gid]


def _set_name(spec: Spec, name: str) -> None:
    section = user(spec)
    section["username"] = name
    section["additionalGids"] = [section.get("gid", 0)]  # as in Go, though only the name matters there


def _set_additional(spec: Spec, gids: list[int]) -> None:
    section = user(spec)
    primary = section.get("gid", 0)
    section["additionalGids"] = gids if primary in gids else [primary, *gids]


def with_user(who: str) -> SpecOpt:
    """Run as ``user``, ``uid``, ``user:group``, ``uid:gid``, ``uid:group`` or ``user:gid`` (Go: WithUser).

    A uid alone has the group ``/etc/passwd`` says, or 0. Supplementary groups are dropped; `with_additional_gids`
    brings those of ``/etc/group``. On other systems than Linux the text is stored as the user name.

    Raises:
        InvalidArgument: Malformed, or an id above 2147483647; when applied: there is no root filesystem to look in.
        NoUsersFound: When applied: no such user.
        NoGroupsFound: When applied: no such group.
    """
    uid, gid = parse_user(check.text("user", who, empty=False))

    async def opt(context: SpecContext, spec: Spec) -> None:
        # With a windows section beside the linux one (Linux in a Windows utility VM) the guest resolves the name.
        if "linux" not in spec or "windows" in spec:
            _set_name(spec, who)
        elif needs_lookup(who):
            _set_ids(spec, *await _in_rootfs(context, spec, lambda root: resolve_user(root, who)))
        else:
            assert isinstance(uid, int)
            assert isinstance(gid, int)
            _set_ids(spec, uid, gid)

    return opt


def with_uid_gid(uid: int, gid: int) -> SpecOpt:
    """Run as these ids, without looking them up (Go: WithUIDGID).

    Raises:
        InvalidArgument: Outside 0 to 2147483647.
    """
    check.integer("uid", uid, most=check.MAX_INT32)
    check.integer("gid", gid, most=check.MAX_INT32)

    def opt(_: SpecContext, spec: Spec) -> None:
        _set_ids(spec, uid, gid)

    return opt


def with_user_id(uid: int) -> SpecOpt:
    """Run as a uid, with the group ``/etc/passwd`` says, or 0 (Go: WithUserID).

    Raises:
        InvalidArgument: Outside 0 to 2147483647; when applied: there is no root filesystem to look in.
    """
    check.integer("uid", uid, most=check.MAX_INT32)

    async def opt(context: SpecContext, spec: Spec) -> None:
        _set_ids(spec, *await _in_rootfs(context, spec, lambda root: resolve_user(root, str(uid))))

    return opt


def with_username(name: str) -> SpecOpt:
    """Run as a user of ``/etc/passwd``; on Windows the name is stored (Go: WithUsername).

    Raises:
        InvalidArgument: Empty; when applied: there is no root filesystem to look in.
        NoUsersFound: When applied: no such user.
    """
    if ":" in check.text("name", name, empty=False):
        raise InvalidArgument(f"name is {name!r}; with a group, use with_user")

    async def opt(context: SpecContext, spec: Spec) -> None:
        if "linux" not in spec:
            _set_name(spec, name)
        else:
            found = await _in_rootfs(context, spec, lambda root: user_by_name(root, name))
            _set_ids(spec, found.uid, found.gid)

    return opt


def with_additional_gids(who: str | int) -> SpecOpt:
    """Set the supplementary groups to those ``/etc/group`` lists a user in (Go: WithAdditionalGIDs).

    Args:
        who: User name or uid. A user that is not known has none.

    Raises:
        InvalidArgument: When applied: there is no root filesystem to look in.
    """
    wanted: str | int
    if isinstance(who, str):
        wanted = int(who) if who.isascii() and who.isdigit() else check.text("user", who, empty=False)
    else:
        wanted = check.integer("user", who, most=check.MAX_INT32)

    async def opt(context: SpecContext, spec: Spec) -> None:
        if "windows" not in spec:
            gids = await _in_rootfs(context, spec, lambda root: supplementary_gids(root, wanted))
            _set_additional(spec, gids)

    return opt


def with_append_additional_groups(*groups: str | int) -> SpecOpt:
    """Add supplementary groups, by name or gid (Go: WithAppendAdditionalGroups).

    Raises:
        InvalidArgument: A gid out of range; when applied: there is no root filesystem to look in.
        NoGroupsFound: When applied: no such group.
    """
    wanted: list[str | int] = []
    for group in groups:
        number = isinstance(group, int) or (group.isascii() and group.isdigit())
        if number:
            wanted.append(check.integer("gid", int(group), most=check.MAX_UINT32))
        else:
            wanted.append(check.text("group", group, empty=False))

    async def opt(context: SpecContext, spec: Spec) -> None:
        if "windows" not in spec:
            gids = await _in_rootfs(context, spec, lambda root: resolve_groups(root, wanted))
            _set_additional(spec, [*user(spec).get("additionalGids", ()), *gids])

    return opt
