"""Sections of a spec, made when they are missing, as Go's options do."""

from __future__ import annotations

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci.types import (
    Linux,
    LinuxCapabilities,
    LinuxCPU,
    LinuxDeviceCgroup,
    LinuxMemory,
    LinuxResources,
    Mount,
    Process,
    Root,
    Spec,
    User,
)


def process(spec: Spec) -> Process:
    """Return the process section."""
    return spec.setdefault("process", {"user": {"uid": 0, "gid": 0}, "cwd": ""})


def user(spec: Spec) -> User:
    """Return the user of the process section."""
    return process(spec).setdefault("user", {"uid": 0, "gid": 0})


def capabilities(spec: Spec) -> LinuxCapabilities:
    """Return the capability sets of the process section."""
    return process(spec).setdefault("capabilities", {})


def root(spec: Spec) -> Root:
    """Return the root section."""
    return spec.setdefault("root", {"path": ""})


def mounts(spec: Spec) -> list[Mount]:
    """Return the list of mounts."""
    return spec.setdefault("mounts", [])


def linux(spec: Spec) -> Linux:
    """Return the linux section."""
    return spec.setdefault("linux", {})


def resources(spec: Spec) -> LinuxResources:
    """Return the limits of the linux section."""
    return linux(spec).setdefault("resources", {})


def memory(spec: Spec) -> LinuxMemory:
    """Return the memory limits of the linux section."""
    return resources(spec).setdefault("memory", {})


def cpu(spec: Spec) -> LinuxCPU:
    """Return the CPU limits of the linux section."""
    return resources(spec).setdefault("cpu", {})


def device_rules(spec: Spec) -> list[LinuxDeviceCgroup]:
    """Return the device rules of the linux section."""
    return resources(spec).setdefault("devices", [])


def require_linux(spec: Spec, what: str) -> Linux:
    """Return the linux section of a spec that has one.

    Raises:
        InvalidArgument: It has none.
    """
    if "linux" not in spec:
        raise InvalidArgument(
            f"{what} needs a spec with a linux section; this spec is for another operating system"
        )
    return spec["linux"]
