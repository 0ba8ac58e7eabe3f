"""Helpers for the tests of programs that use this library.

The names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from containerd_aio.testing.fake import (
        Call,
        EventFault,
        FakeContainerd,
        FakeProcess,
        FakeTask,
        Fate,
        Hold,
        Program,
        RPCFault,
    )
    from containerd_aio.testing.images import build_image_archive, build_index_archive, busybox_image
    from containerd_aio.testing.proxy import FaultProxy, ProxiedConnection
    from containerd_aio.testing.registry import RegistryServer

_HOMES = {
    "fake": (
        "Call", "EventFault", "FakeContainerd", "FakeProcess", "FakeTask", "Fate", "Hold", "Program", "RPCFault",
    ),
    "images": ("build_image_archive", "build_index_archive", "busybox_image"),
    "proxy": ("FaultProxy", "ProxiedConnection"),
    "registry": ("RegistryServer",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Call",
    "EventFault",
    "FakeContainerd",
    "FakeProcess",
    "FakeTask",
    "Fate",
    "FaultProxy",
    "Hold",
    "Program",
    "ProxiedConnection",
    "RPCFault",
    "RegistryServer",
    "build_image_archive",
    "build_index_archive",
    "busybox_image",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'containerd_aio.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"containerd_aio.testing.{home}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
