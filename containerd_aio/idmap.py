"""Users and groups of a user namespace, and the ids they have on the host."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containerd_aio.oci import LinuxIDMapping

UID_MAPPING_LABEL = "containerd.io/snapshot/uidmapping"
"""Label of a snapshot: how its user ids are mapped, as ``container:host:size[,...]``."""

GID_MAPPING_LABEL = "containerd.io/snapshot/gidmapping"
"""The same for its group ids."""

_MAX_ID = 2**32 - 1


@dataclass(frozen=True, slots=True, order=True)
class IDRange:
    """Ids that follow each other, in the container and on the host.

    Attributes:
        container: The first of them in the container.
        host: The first of them on the host.
        size: How many there are.

    Raises:
        InvalidArgument: The range is empty or does not fit into 32 bits.
    """

    container: int
    host: int
    size: int

    def __post_init__(self) -> None:
        for first in (self.container, self.host):
            if first < 0 or self.size < 1 or first + self.size - 1 > _MAX_ID:
                raise InvalidArgument(f"{self} is no range of ids: they go from 0 to {_MAX_ID}")

    def __str__(self) -> str:
        return f"{self.container}:{self.host}:{self.size}"


@dataclass(frozen=True, slots=True)
class IDMap:
    """How the users and groups of a container's user namespace are mapped to those of the host.

    Attributes:
        uids: The user ids.
        gids: The group ids.

    Raises:
        InvalidArgument: Ranges overlap, or the container's root (id 0) is not mapped: its root filesystem could not be
            owned by it.
    """

    uids: tuple[IDRange, ...]
    gids: tuple[IDRange, ...]

    def __post_init__(self) -> None:
        for what, ranges in (("uids", self.uids), ("gids", self.gids)):
            if not any(r.container == 0 for r in ranges):
                raise InvalidArgument(f"{what} of the id map don't map the container's id 0: {_text(ranges)}")
            _check_apart(what, ranges)

    @classmethod
    def shifted(cls, uid: int, gid: int | None = None, *, size: int = 65536) -> Self:
        """Return the map that puts the container's ids from 0 at `uid` and `gid` (by default the same) of the host.

        Raises:
            InvalidArgument: The ids don't fit into 32 bits.
        """
        return cls((IDRange(0, uid, size),), (IDRange(0, uid if gid is None else gid, size),))

    def host_uid(self, uid: int) -> int:
        """Return the host's id of the user `uid` of the container.

        Raises:
            InvalidArgument: It is not mapped.
        """
        return _to_host("user", self.uids, uid)

    def host_gid(self, gid: int) -> int:
        """Return the host's id of the group `gid` of the container.

        Raises:
            InvalidArgument: It is not mapped.
        """
        return _to_host("group", self.gids, gid)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of a snapshot that has these mappings (Go: ``snapshots.WithUserNSRemapperLabels``)."""
        return {UID_MAPPING_LABEL: _text(self.uids), GID_MAPPING_LABEL: _text(self.gids)}

    @property
    def uid_mappings(self) -> list[LinuxIDMapping]:
        """The user ids as the OCI spec writes them, for `oci.with_user_namespace`."""
        return _mappings(self.uids)

    @property
    def gid_mappings(self) -> list[LinuxIDMapping]:
        """The group ids as the OCI spec writes them."""
        return _mappings(self.gids)


def _text(ranges: Iterable[IDRange]) -> str:
    return ",".join(str(each) for each in ranges)


def _mappings(ranges: Iterable[IDRange]) -> list[LinuxIDMapping]:
    return [{"containerID": each.container, "hostID": each.host, "size": each.size} for each in ranges]


def _check_apart(what: str, ranges: tuple[IDRange, ...]) -> None:
    for side in ("container", "host"):
        spans = sorted((getattr(r, side), getattr(r, side) + r.size) for r in ranges)
        for (_, end), (start, _) in pairwise(spans):
            if start < end:
                raise InvalidArgument(
                    f"{what} of the id map overlap on the side of the {side}: {_text(ranges)}"
                )


def _to_host(what: str, ranges: Iterable[IDRange], id_: int) -> int:
    for each in ranges:
        if each.container <= id_ < each.container + each.size:
            return each.host + id_ - each.container
    raise InvalidArgument(f"the {what} id {id_} is not in the id map {_text(ranges)}")
