"""Container Device Interface: find the devices that vendors describe in files, and edit a spec for them.

Mirrors the reference implementation (tags.cncf.io/container-device-interface 1.0), which containerd's client uses: the
files of ``/etc/cdi`` and ``/var/run/cdi``, a later directory before an earlier one, two files of one directory that
describe the same device cancelling each other, broken files passed over until a device they would have is asked for.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound

#: Where vendors put their files: those of the machine, those made at run time. The later one wins.
SPEC_DIRS = ("/etc/cdi", "/var/run/cdi")

_VERSIONS = frozenset({"0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"})
_QUALIFIER = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_EDITS = {"env", "deviceNodes", "hooks", "mounts", "intelRdt", "additionalGids", "netDevices"}


@dataclass(frozen=True, slots=True)
class CDIDevice:
    """A device a file describes.

    Attributes:
        name: ``vendor/class=device``.
        path: The file.
        common: What the file changes for each of its devices.
        edits: What it changes for this one.
    """

    name: str
    path: str
    common: dict[str, Any]
    edits: dict[str, Any]


def find_devices(
    names: Sequence[str], *, directories: Iterable[str | os.PathLike[str]] = SPEC_DIRS
) -> list[CDIDevice]:
    """Return the devices of these names, in order.

    Args:
        names: Such as ``nvidia.com/gpu=0``.
        directories: Where to look, the last one first.

    Raises:
        NotFound: A device is not described, or in conflict; the text says which files could not be used, and why.
    """
    known: dict[str, CDIDevice] = {}
    conflicts: set[str] = set()
    broken: list[str] = []
    directories = list(directories)
    for directory in directories:
        here: set[str] = set()
        for path in _files(Path(directory)):
            try:
                devices = _read(path)
            except InvalidArgument as exc:
                broken.append(str(exc))
                continue
            for device in devices:
                if device.name in here:
                    conflicts.add(device.name)
                    broken.append(f"{device.name} is in {known[device.name].path} and {device.path}")
                here.add(device.name)
                known[device.name] = device
    missing = [name for name in names if name not in known or name in conflicts]
    if missing:
        where = ", ".join(str(directory) for directory in directories)
        why = f"; {'; '.join(broken)}" if broken else ""
        raise NotFound(f"no CDI device {', '.join(missing)} in {where}{why}")
    return [known[name] for name in names]


def merge(devices: Iterable[CDIDevice]) -> dict[str, Any]:
    """Return all edits for some devices: those of a file once, before those of its first device."""
    edits: dict[str, Any] = {}
    seen: set[str] = set()
    for device in devices:
        parts = [device.edits] if device.path in seen else [device.common, device.edits]
        seen.add(device.path)
        for part in parts:
            for key, value in part.items():
                if isinstance(value, list):
                    edits.setdefault(key, []).extend(value)
                elif value is not None:
                    edits[key] = value
    return edits


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(
            path for path in directory.iterdir() if path.suffix in {".json", ".yaml"} and not path.is_dir()
        )
    except OSError:
        return []  # a machine without such devices


def _read(path: Path) -> list[CDIDevice]:
    try:
        return _devices(_parse(path), str(path))
    except (OSError, ValueError, TypeError, AttributeError) as exc:  # the last two: a value of the wrong kind
        raise InvalidArgument(f"CDI file {path} can't be used: {exc}") from exc


def _parse(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    parsed: Any = json.loads(text) if path.suffix == ".json" else _yaml(text)
    if isinstance(parsed, dict):
        return parsed
    raise ValueError("it is not an object")


def _yaml(text: str) -> Any:
    try:
        yaml = import_module("yaml")
    except ImportError:
        raise ValueError("it is YAML, and PyYAML is not installed: pip install pyyaml") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc


def _devices(content: dict[str, Any], path: str) -> list[CDIDevice]:
    """Check a file as a whole, and return its devices; ValueError says what is wrong."""
    if content.get("cdiVersion") not in _VERSIONS:
        raise ValueError(f"cdiVersion is {content.get('cdiVersion')!r}, which is not known")
    vendor, _, kind = str(content.get("kind", "")).partition("/")
    if not _QUALIFIER.fullmatch(vendor) or not _QUALIFIER.fullmatch(kind):
        raise ValueError(f"kind is {content.get('kind')!r}; it must be vendor/class")
    common = _checked(content.get("containerEdits"), "containerEdits")
    found: dict[str, CDIDevice] = {}
    for device in content.get("devices") or ():
        name = device.get("name") if isinstance(device, dict) else None
        if not isinstance(name, str) or not _DEVICE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a device")
        if name in found:
            raise ValueError(f"device {name!r} is there twice")
        edits = _checked(device.get("containerEdits"), f"device {name!r}")
        if not any(edits.values()) and not edits.get("intelRdt"):
            raise ValueError(f"device {name!r} changes nothing")
        found[name] = CDIDevice(f"{vendor}/{kind}={name}", path, common, edits)
    if not found:
        raise ValueError("it has no devices")
    return list(found.values())


def _checked(edits: Any, where: str) -> dict[str, Any]:
    if edits is None:
        return {}
    if not isinstance(edits, dict) or edits.keys() - _EDITS:
        raise ValueError(f"{where}: {edits!r} are not edits of a container")
    if edits.get("netDevices"):
        raise ValueError(f"{where}: network devices are newer than the CDI release that is mirrored here")
    _check_env(edits.get("env"), where)
    for node in edits.get("deviceNodes") or ():
        if not node.get("path"):
            raise ValueError(f"{where}: a device node without a path")
        if node.get("type", "") not in {"", "b", "c", "u", "p"} or set(node.get("permissions", "")) - set(
            "rwm"
        ):
            raise ValueError(f"{where}: device node {node['path']} has a wrong type or permissions")
    for hook in edits.get("hooks") or ():
        if hook.get("hookName") not in HOOKS or not hook.get("path"):
            raise ValueError(f"{where}: {hook!r} is not a hook with hookName and path")
        _check_env(hook.get("env"), where)
    for mount in edits.get("mounts") or ():
        if not mount.get("hostPath") or not mount.get("containerPath"):
            raise ValueError(f"{where}: a mount needs hostPath and containerPath")
    clos = (edits.get("intelRdt") or {}).get("closID", "")
    if len(clos) >= 4096 or clos in {".", ".."} or set(clos) & set("/\n"):
        raise ValueError(f"{where}: closID is {clos!r}, which is not a file name")
    return edits


def _check_env(env: Any, where: str) -> None:
    for variable in env or ():
        if not isinstance(variable, str) or variable.find("=") <= 0:
            raise ValueError(f"{where}: environment variable {variable!r} is not NAME=value")


def host_node(node: dict[str, Any]) -> tuple[str, int, int]:
    """Return type, major and minor of a device node of CDI, asking the host for what the file leaves out.

    Raises:
        FailedPrecondition: The host has no such device, or one of another type.
    """
    from containerd_aio.oci.devices import device_from_path

    kind, major, minor = node.get("type", ""), node.get("major", 0), node.get("minor", 0)
    if kind and (major or kind == "p"):
        return kind, major, minor
    path = node.get("hostPath") or node["path"]
    try:
        device = device_from_path(path)
    except (NotFound, InvalidArgument) as exc:
        raise FailedPrecondition(f"CDI device {node['path']} can't be made: {exc}") from exc
    if kind and kind != device["type"]:
        raise FailedPrecondition(
            f"CDI device {node['path']} should be of type {kind}, but {path} is of type {device['type']}"
        )
    if major or device["type"] == "p":
        return device["type"], major, minor
    return device["type"], device["major"], device["minor"]
