"""Users and groups of a container's root filesystem: ``/etc/passwd`` and ``/etc/group``.

Mirrors what Go's client does (package oci with moby/sys/user), but for one thing: there an id that is not a number
counts as 0, which would turn a damaged line into root. Here such a line is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci._check import MAX_INT32
from containerd_aio.oci.errors import NoGroupsFound, NoUsersFound
from containerd_aio.oci.rootfs import read_in_root

PASSWD = "/etc/passwd"  # noqa: S105
GROUP = "/etc/group"

_NUMBER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class PasswdUser:
    """A line of ``/etc/passwd``."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Group:
    """A line of ``/etc/group``; ``members`` are user names."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


def parse_passwd(data: bytes) -> list[PasswdUser]:
    """Return the users of a passwd file in order; lines without a usable uid and gid are left out."""
    users = []
    for name, _, uid, gid, *_ in _lines(data, 4):
        if (user_id := _id(uid)) is not None and (group_id := _id(gid)) is not None:
            users.append(PasswdUser(name, user_id, group_id))
    return users


def parse_group(data: bytes) -> list[Group]:
    """Return the groups of a group file in order; lines without a usable gid are left out."""
    groups = []
    for name, _, gid, members, *_ in _lines(data, 4):
        if (group_id := _id(gid)) is not None:
            groups.append(Group(name, group_id, tuple(members.split(",")) if members else ()))
    return groups


def _lines(data: bytes, fields: int) -> list[list[str]]:
    out = []
    for line in data.decode(errors="surrogateescape").split("\n"):
        stripped = line.strip()
        if stripped:
            parts = stripped.split(":")
            out.append(parts + [""] * (fields - len(parts)))
    return out


def _id(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and 0 <= int(text) <= MAX_INT32 else None


def user_from_path(
    root: str | os.PathLike[str], predicate: Callable[[PasswdUser], bool] | None = None
) -> PasswdUser:
    """Return the first matching user of ``/etc/passwd`` below `root` (Go: UserFromPath).

    Raises:
        NoUsersFound: None matches, or there is no such file.
        InvalidArgument: The file is no regular file, or larger than 10 MiB.
    """
    for user in _users(root):
        if predicate is None or predicate(user):
            return user
    raise NoUsersFound(f"no such user in {PASSWD} of the container's root filesystem")


def gid_from_path(root: str | os.PathLike[str], predicate: Callable[[Group], bool] | None = None) -> int:
    """Return the gid of the first matching group of ``/etc/group`` below `root` (Go: GIDFromPath).

    Raises:
        NoGroupsFound: None matches, or there is no such file.
        InvalidArgument: The file is no regular file, or larger than 10 MiB.
    """
    for group in _groups(root):
        if predicate is None or predicate(group):
            return group.gid
    raise NoGroupsFound(f"no such group in {GROUP} of the container's root filesystem")


def _users(root: str | os.PathLike[str]) -> list[PasswdUser]:
    return parse_passwd(_read(root, PASSWD))


def _groups(root: str | os.PathLike[str]) -> list[Group]:
    return parse_group(_read(root, GROUP))


def _read(root: str | os.PathLike[str], path: str) -> bytes:
    try:
        return read_in_root(root, path)
    except (FileNotFoundError, NotADirectoryError):
        if not Path(root).is_dir():
            raise NotFound(
                f"the container's root filesystem {os.fspath(root)!r} is not a directory"
            ) from None
        return b""
    except OSError as exc:
        raise InvalidArgument(
            f"{path} of the container's root filesystem can't be read: {exc.strerror}"
        ) from exc


def parse_user(user: str) -> tuple[str | int, str | int | None]:
    """Take ``user[:group]`` apart; numbers become integers.

    Returns:
        User and group; the group is None when none was given. An empty group counts as 0, as in Go.

    Raises:
        InvalidArgument: Not that form, no user, or an id above 2147483647 (what runc accepts).
    """
    name, colon, group = user.partition(":")
    if not name or ":" in group:
        raise InvalidArgument(
            f"user is {user!r}; it must be a name or uid, optionally followed by ':' and a group or gid"
        )
    return _name_or_id("uid", name, user), _name_or_id("gid", group or "0", user) if colon else None


def _name_or_id(what: str, text: str, whole: str) -> str | int:
    if not _NUMBER.fullmatch(text):
        return text
    if not 0 <= int(text) <= MAX_INT32:
        raise InvalidArgument(f"user is {whole!r}; the {what} must be from 0 to {MAX_INT32}")
    return int(text)


def needs_lookup(user: str) -> bool:
    """Return whether `resolve_user` reads files of the root filesystem: not for ``uid:gid``."""
    return any(not isinstance(part, int) for part in parse_user(user))


def resolve_user(root: str | os.PathLike[str], user: str) -> tuple[int, int]:
    """Return uid and gid of ``user[:group]``.

    A uid alone takes its group from ``/etc/passwd``, or gid 0 when it is not there.

    Raises:
        NoUsersFound: The user name is not known.
        NoGroupsFound: The group name is not known.
        InvalidArgument: `user` is malformed, or the files are unusable.
    """
    who, group = parse_user(user)
    if isinstance(who, str):
        found = user_by_name(root, who)
        uid, gid = found.uid, found.gid
    elif group is None:
        uid, gid = who, next((found.gid for found in _users(root) if found.uid == who), 0)
    else:
        uid, gid = who, 0
    if isinstance(group, int):
        gid = group
    elif group is not None:
        try:
            gid = gid_from_path(root, lambda each: each.name == group)
        except NoGroupsFound:
            raise NoGroupsFound(f"no group {group!r} in {GROUP} of the container's root filesystem") from None
    return uid, gid


def user_by_name(root: str | os.PathLike[str], name: str) -> PasswdUser:
    """Return the first user of that name.

    Raises:
        NoUsersFound: There is none.
        InvalidArgument: ``/etc/passwd`` is unusable.
    """
    try:
        return user_from_path(root, lambda each: each.name == name)
    except NoUsersFound:
        raise NoUsersFound(f"no user {name!r} in {PASSWD} of the container's root filesystem") from None


def supplementary_gids(root: str | os.PathLike[str], user: str | int) -> list[int]:
    """Return the gids of the groups that list a user as a member.

    A group with the user's own name is left out; so is everything when a uid is not in ``/etc/passwd``.
    """
    if isinstance(user, int):
        name = next((each.name for each in _users(root) if each.uid == user), None)
    else:
        name = user
    return [
        group.gid
        for group in _groups(root)
        if name is not None and group.name != name and name in group.members
    ]


def resolve_groups(root: str | os.PathLike[str], groups: Sequence[str | int]) -> list[int]:
    """Return the gids of groups given by name or number.

    Raises:
        NoGroupsFound: A name is not known.
    """
    known = {group.name: group.gid for group in _groups(root)}
    gids = []
    for group in groups:
        if isinstance(group, int):
            gids.append(group)
        elif group in known:
            gids.append(known[group])
        else:
            raise NoGroupsFound(f"no group {group!r} in {GROUP} of the container's root filesystem")
    return gids
