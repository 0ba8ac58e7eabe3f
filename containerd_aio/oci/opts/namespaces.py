"""Options for Linux namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import get_args

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import linux
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.types import LinuxIDMapping, LinuxNamespace, LinuxNamespaceType, Spec

_TYPES: tuple[LinuxNamespaceType, ...] = get_args(LinuxNamespaceType)


def with_host_namespace(kind: LinuxNamespaceType) -> SpecOpt:
    """Stay in the host's namespace of a kind instead of making one (Go: WithHostNamespace).

    Raises:
        InvalidArgument: Not a kind of namespace. The network's is called ``network``.
    """
    check.one_of("kind", kind, _TYPES)

    def opt(_: SpecContext, spec: Spec) -> None:
        namespaces = linux(spec).get("namespaces", [])
        for at, namespace in enumerate(namespaces):
            if namespace["type"] == kind:
                del namespaces[at]
                return

    return opt


def with_linux_namespace(kind: LinuxNamespaceType, path: str = "") -> SpecOpt:
    """Make a namespace of a kind, or join one, replacing the spec's of that kind (Go: WithLinuxNamespace).

    Args:
        kind: Such as ``network``.
        path: The namespace to join, such as ``/proc/123/ns/net``; empty makes a new one.

    Raises:
        InvalidArgument: Not a kind of namespace, or the path is not absolute.
    """
    check.one_of("kind", kind, _TYPES)
    if path:
        check.host_path("path", path)

    def opt(_: SpecContext, spec: Spec) -> None:
        wanted: LinuxNamespace = {"type": kind, "path": path} if path else {"type": kind}
        namespaces = linux(spec).setdefault("namespaces", [])
        for at, namespace in enumerate(namespaces):
            if namespace["type"] == kind:
                namespaces[at] = wanted
                return
        namespaces.append(wanted)

    return opt


def with_user_namespace(uid_map: Iterable[LinuxIDMapping], gid_map: Iterable[LinuxIDMapping]) -> SpecOpt:
    """Make a user namespace with these mappings; used again, it adds mappings (Go: WithUserNamespace).

    The files of the root filesystem must be owned accordingly: see the remapped snapshots.

    Args:
        uid_map: Such as ``[{"containerID": 0, "hostID": 100000, "size": 65536}]``.
        gid_map: The same for groups.

    Raises:
        InvalidArgument: A mapping lacks a number, or one is out of range.
    """
    uids = [_mapping("uid_map", at, each) for at, each in enumerate(uid_map)]
    gids = [_mapping("gid_map", at, each) for at, each in enumerate(gid_map)]

    def opt(_: SpecContext, spec: Spec) -> None:
        section = linux(spec)
        namespaces = section.setdefault("namespaces", [])
        if not any(namespace["type"] == "user" for namespace in namespaces):
            namespaces.append({"type": "user"})
        section.setdefault("uidMappings", []).extend(deepcopy(uids))
        section.setdefault("gidMappings", []).extend(deepcopy(gids))

    return opt


def _mapping(what: str, at: int, mapping: LinuxIDMapping) -> LinuxIDMapping:
    try:
        first, host, size = mapping["containerID"], mapping["hostID"], mapping["size"]
    except (KeyError, TypeError):
        raise InvalidArgument(f"{what}[{at}] is {mapping!r}; it needs containerID, hostID and size") from None
    return {
        "containerID": check.integer(f"containerID of {what}[{at}]", first, most=check.MAX_UINT32),
        "hostID": check.integer(f"hostID of {what}[{at}]", host, most=check.MAX_UINT32),
        "size": check.integer(f"size of {what}[{at}]", size, least=1, most=check.MAX_UINT32),
    }
