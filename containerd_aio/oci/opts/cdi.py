"""The option for devices that vendors describe: CDI."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from typing import Any, cast

import anyio.to_thread

from containerd_aio.oci import _check as check
from containerd_aio.oci import cdi
from containerd_aio.oci._sections import device_rules, linux, mounts, process, user
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.types import Hook, LinuxDevice, LinuxIntelRdt, Mount, Spec


def with_cdi_devices(*devices: str, directories: Iterable[str | os.PathLike[str]] = cdi.SPEC_DIRS) -> SpecOpt:
    """Give the container devices that CDI files describe (Go: cdi.WithCDIDevices).

    Device nodes, mounts, environment, hooks, groups and cache classes are changed as the vendor says; so options that
    replace any of these go before this one.

    Args:
        devices: Such as ``nvidia.com/gpu=0``. None: nothing is changed.
        directories: Where the files are, the last one first; by default ``/etc/cdi`` and ``/var/run/cdi``. YAML files
            need PyYAML.

    Raises:
        InvalidArgument: A name is not a string.
        NotFound: When applied: no such device.
        FailedPrecondition: When applied: the host lacks a device node that is described.
    """
    names = check.texts("devices", devices)
    where = list(directories)

    def resolve() -> tuple[dict[str, Any], list[tuple[dict[str, Any], LinuxDevice]]]:
        edits = cdi.merge(cdi.find_devices(names, directories=where))
        return edits, [(node, _device(node)) for node in edits.get("deviceNodes") or ()]

    async def opt(_: SpecContext, spec: Spec) -> None:
        if names:
            edits, nodes = await anyio.to_thread.run_sync(resolve)
            _apply(spec, edits, nodes)

    return opt


def _apply(spec: Spec, edits: dict[str, Any], nodes: list[tuple[dict[str, Any], LinuxDevice]]) -> None:
    if edits.get("env"):
        section = process(spec)
        section["env"] = _merged_env(section.get("env", []), edits["env"])
    for node, device in nodes:
        _add_device(spec, device, node.get("permissions") or "rwm")
    if edits.get("mounts"):
        _add_mounts(spec, edits["mounts"])
    for hook in edits.get("hooks") or ():
        kept = {key: hook[key] for key in ("path", "args", "env", "timeout") if hook.get(key) is not None}
        hooks = cast("dict[str, list[Hook]]", spec.setdefault("hooks", {}))
        hooks.setdefault(hook["hookName"], []).append(cast("Hook", kept))
    if edits.get("intelRdt") is not None:
        linux(spec)["intelRdt"] = cast("LinuxIntelRdt", dict(edits["intelRdt"]))
    for gid in edits.get("additionalGids") or ():
        groups = user(spec).setdefault("additionalGids", [])
        if gid and gid not in groups:
            groups.append(gid)


def _merged_env(env: list[str], added: Iterable[str]) -> list[str]:
    """Append variables; of those that are appended, a later one replaces an earlier one.

    A variable the spec has already stays beside it, as in Go: libc takes the first, the runtime passes both.
    """
    merged = list(env)
    places = {entry: at for at, entry in enumerate(merged)}
    for variable in added:
        name = variable.partition("=")[0]
        if name in places:
            merged[places[name]] = variable
        else:
            places[name] = len(merged)
            merged.append(variable)
    return merged


def _device(node: dict[str, Any]) -> LinuxDevice:
    kind, major, minor = cdi.host_node(node)
    device: LinuxDevice = {"path": node["path"], "type": kind, "major": major, "minor": minor}
    if node.get("fileMode") is not None:
        device["fileMode"] = node["fileMode"]
    if node.get("uid") is not None:
        device["uid"] = node["uid"]
    if node.get("gid") is not None:
        device["gid"] = node["gid"]
    return device


def _add_device(spec: Spec, device: LinuxDevice, access: str) -> None:
    who = spec.get("process", {}).get("user", {})
    if "uid" not in device and who.get("uid", 0) > 0:
        device["uid"] = who["uid"]
    if "gid" not in device and who.get("gid", 0) > 0:
        device["gid"] = who["gid"]
    section = linux(spec)
    section["devices"] = [each for each in section.get("devices", ()) if each["path"] != device["path"]]
    section["devices"].append(device)
    if device["type"] in {"b", "c"}:
        device_rules(spec).append(
            {
                "allow": True,
                "type": device["type"],
                "major": device["major"],
                "minor": device["minor"],
                "access": access,
            }
        )


def _add_mounts(spec: Spec, added: Iterable[dict[str, Any]]) -> None:
    listed = mounts(spec)
    for each in added:
        listed[:] = [mount for mount in listed if mount["destination"] != each["containerPath"]]
        mount: Mount = {"destination": each["containerPath"], "source": each["hostPath"]}
        if each.get("type"):
            mount["type"] = each["type"]
        if each.get("options"):
            mount["options"] = list(each["options"])
        listed.append(mount)
    # A mount goes after those above it, else it would be hidden.
    listed.sort(key=lambda mount: posixpath.normpath(mount["destination"]).count("/"))
