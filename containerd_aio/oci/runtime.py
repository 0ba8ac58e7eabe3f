"""Options of the runc shim (``io.containerd.runc.v2``), set per container or per task."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from containerd_aio.oci import _check as check

if TYPE_CHECKING:
    from containerd_aio.api.containerd.runc.v1 import Options

_FLAGS = ("no_pivot_root", "no_new_keyring", "systemd_cgroup")
_NUMBERS = ("io_uid", "io_gid", "task_api_version")
_PATHS = ("root", "criu_image_path", "criu_work_path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuncOptions:
    """Options of the runc shim (``containerd.runc.v1.Options``). None means not set: the shim's default holds.

    Attributes:
        no_pivot_root: Don't use pivot_root(2), for roots on a ramdisk.
        no_new_keyring: Don't make a session keyring for the container.
        shim_cgroup: Cgroup the shim itself is put into.
        io_uid: Owner of the stdio pipes.
        io_gid: Group of the stdio pipes.
        binary_name: Name or path of the runtime, such as ``crun``; the default is ``runc``.
        root: Directory of the runtime's state; the default is ``/run/containerd/runc``.
        systemd_cgroup: Have systemd make the cgroup; the spec's cgroup path is ``slice:prefix:name`` then.
        criu_image_path: Directory for checkpoint images, in place of one that is thrown away.
        criu_work_path: Directory for CRIU's working files and logs.
        task_api_address: Address of a task API the shim shall serve, where the runtime knows it.
        task_api_version: Version of that API.

    Raises:
        InvalidArgument: A value of the wrong kind or out of range, or a relative directory.
    """

    no_pivot_root: bool | None = None
    no_new_keyring: bool | None = None
    shim_cgroup: str | None = None
    io_uid: int | None = None
    io_gid: int | None = None
    binary_name: str | None = None
    root: str | None = None
    systemd_cgroup: bool | None = None
    criu_image_path: str | None = None
    criu_work_path: str | None = None
    task_api_address: str | None = None
    task_api_version: int | None = None

    def __post_init__(self) -> None:
        for name, value in self._set().items():
            if name in _FLAGS:
                check.boolean(name, value)
            elif name in _NUMBERS:
                check.integer(name, value, most=check.MAX_UINT32)
            elif check.text(name, value) and name in _PATHS:
                check.host_path(name, value)

    def _set(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def merge(self, changes: RuncOptions) -> RuncOptions:
        """Return these options with those set in `changes` in place of their own.

        The daemon doesn't merge: the options of a task replace those of its container as a whole. Go's client does it
        since 2.1; its older ones started from nothing, so that one option of a task lost all of the container's.
        """
        return replace(self, **changes._set())

    @property
    def raw(self) -> Options:
        """The message sent to containerd."""
        from containerd_aio.api.containerd.runc.v1 import Options

        return Options(**self._set())

    @classmethod
    def from_raw(cls, message: Options) -> RuncOptions:
        """Return the options a message holds; what has its default there counts as not set."""
        return cls(**{field.name: getattr(message, field.name) or None for field in fields(cls)})
