"""Options of `Client.create` and `Client.restore`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.libcontainerd.restart_manager import RestartManager
    from containerd_aio.oci import RuncOptions


@dataclass(slots=True)
class CreateParameters:
    """What options change: how a container is made and kept.

    Attributes:
        runtime: Name of the runtime; empty for the default.
        runtime_options: Options of the runtime.
        restart_manager: Decides whether it is started again after its exit; None for never.
        snapshotter: Snapshotter of `snapshot`; empty for the default.
        snapshot: Key of the snapshot that is its root filesystem; empty when the spec's ``root.path`` is it.
    """

    runtime: str = ""
    runtime_options: RuncOptions | None = None
    restart_manager: RestartManager | None = field(default=None)
    snapshotter: str = ""
    snapshot: str = ""


class CreateOption(Protocol):
    """Changes how a container is made. An option that fails is logged, and the container is made without it."""

    def apply(self, parameters: CreateParameters) -> None:
        """Make the change."""


@dataclass(frozen=True, slots=True)
class _WithRuntime:
    path: str
    args: tuple[str, ...]

    def apply(self, parameters: CreateParameters) -> None:
        name, options = runtime_of(self.path, self.args)
        parameters.runtime, parameters.runtime_options = name, options


def with_runtime(path: str, args: Sequence[str] = ()) -> CreateOption:
    """Run the container by another runtime (docker 1.12 and later).

    Args:
        path: The binary, called as runc is, such as ``crun``; or the name of a containerd runtime, such as
            ``io.containerd.kata.v2``.
        args: Options of the binary; of these containerd can pass on ``--root=DIR`` and ``--systemd-cgroup``.

    Raises:
        InvalidArgument: It has an option that can't be passed on.
    """
    runtime_of(path, args)
    return _WithRuntime(path, tuple(args))


@dataclass(frozen=True, slots=True)
class _WithRestartManager:
    manager: RestartManager

    def apply(self, parameters: CreateParameters) -> None:
        parameters.restart_manager = self.manager


def with_restart_manager(manager: RestartManager) -> CreateOption:
    """Restart the container as its restart manager says (docker 1.11 and 1.12).

    The backend is told ``restart`` in place of ``exit``, and ``start-container`` when it runs again. It is told ``exit``
    once the manager says no, is cancelled, or the container can't be started again.

    Args:
        manager: The manager; of this container alone.
    """
    return _WithRestartManager(manager)


@dataclass(frozen=True, slots=True)
class _WithSnapshot:
    key: str
    snapshotter: str

    def apply(self, parameters: CreateParameters) -> None:
        parameters.snapshot, parameters.snapshotter = self.key, self.snapshotter


def with_snapshot(key: str, *, snapshotter: str = "") -> CreateOption:
    """Take a snapshot of containerd for the root filesystem, in place of a directory.

    Args:
        key: Key of an active snapshot. It stays when the container is gone, until containerd collects it: hold a lease.
        snapshotter: Its snapshotter; that of the namespace by default.
    """
    return _WithSnapshot(key, snapshotter)


def runtime_of(path: str, args: Sequence[str]) -> tuple[str, RuncOptions | None]:
    """Return name and options of the runtime that stands for a binary and its options.

    Raises:
        InvalidArgument: It has an option that can't be passed on.
    """
    from containerd_aio.oci import RuncOptions

    if path.startswith("io.containerd."):
        if args:
            raise InvalidArgument(f"runtime {path} takes no command line options, and there are {list(args)}")
        return path, None
    root: str | None = None
    systemd_cgroup: bool | None = None
    for arg in args:
        name, _, value = arg.partition("=")
        if name == "--root" and value:
            root = value
        elif arg in {"--systemd-cgroup", "--systemd-cgroup=true"}:
            systemd_cgroup = True
        else:
            raise InvalidArgument(
                f"containerd can't pass {arg!r} to the runtime; it knows --root=DIR and --systemd-cgroup"
            )
    return "", RuncOptions(binary_name=path or None, root=root, systemd_cgroup=systemd_cgroup)
