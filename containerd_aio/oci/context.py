"""What an option of the spec may look at, and what such an option is."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci.types import Spec

#: Gives the container's root filesystem as a directory, read-only, for as long as the context is open.
RootfsAccess = Callable[[], AbstractAsyncContextManager["str | os.PathLike[str]"]]

_HOST_OS = {"win32": "windows", "cygwin": "windows", "darwin": "darwin"}


def host_os() -> str:
    """Return the operating system's name of this machine in Go's words: linux, windows, darwin or freebsd."""
    return _HOST_OS.get(sys.platform, "freebsd" if sys.platform.startswith("freebsd") else "linux")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecContext:
    """The container a spec is made for: read by options, never changed by them.

    Attributes:
        container_id: The container's id; the last part of the default cgroup path.
        namespace: containerd's namespace; the first part of the default cgroup path.
        platform: ``os`` or ``os/arch[/variant]``; decides which default spec is used. Default: this machine's.
        host: The operating system containerd runs on, when it is not `platform`'s: ``windows`` with a Linux platform means
            a Linux container in a utility VM, whose spec has both sections. Default: this machine's.
        version: containerd's version, as the daemon tells it; decides the ``ociVersion`` and the hidden paths of the
            default spec. None means containerd 2.1, whose API this library states.
        image_config: The image's config blob, parsed: the whole of it, with ``config``, ``os``, ``architecture``.
        rootfs: Opens the container's root filesystem for `with_user` and its like; the client provides it when the
            container has a snapshot. Without it the spec's ``root.path`` is used, if that is absolute.
    """

    container_id: str = ""
    namespace: str = "default"
    platform: str | None = None
    host: str | None = None
    version: str | None = None
    image_config: Mapping[str, Any] | None = None
    rootfs: RootfsAccess | None = None

    @property
    def os(self) -> str:
        """The operating system part of `platform`: linux, windows, darwin or freebsd.

        Raises:
            InvalidArgument: It is none of these.
        """
        if self.platform is None:
            return host_os()
        # Windows may carry its version: windows(10.0.17763)/amd64
        name = self.platform.partition("/")[0].partition("(")[0].lower()
        name = {"macos": "darwin"}.get(name, name)
        if name not in {"linux", "windows", "darwin", "freebsd"}:
            raise InvalidArgument(
                f"no default spec is known for platform {self.platform!r}; give linux, windows, darwin or freebsd, "
                "optionally with /arch"
            )
        return name

    @property
    def arch(self) -> str:
        """The processor part of `platform` in Go's words, or this machine's: amd64, arm64, ..."""
        from containerd_aio.oci.seccomp import go_arch, host_arch

        given = self.platform.split("/")[1:2] if self.platform else []
        return go_arch(given[0]) if given and given[0] else host_arch()

    @property
    def in_utility_vm(self) -> bool:
        """Whether a Linux container runs on a Windows host."""
        return (self.host or host_os()) == "windows" and self.os in {"linux", "freebsd"}

    @asynccontextmanager
    async def open_rootfs(self, spec: Spec) -> AsyncIterator[Path]:
        """Yield the directory that holds the container's root filesystem.

        Raises:
            InvalidArgument: There is none: no snapshot, and the spec's ``root.path`` is not absolute.
        """
        if self.rootfs is not None:
            async with self.rootfs() as root:
                yield Path(root)
            return
        section = spec.get("root")
        path = section.get("path", "") if section else ""
        if not path.startswith("/"):
            raise InvalidArgument(
                "users and groups are looked up in the container's root filesystem, and there is none yet: create the "
                "container with a snapshot, or put with_rootfs_path with an absolute path before this option"
            )
        yield Path(path)


#: A change to a spec. Most are plain functions; those that read files are coroutine functions.
SpecOpt = Callable[[SpecContext, Spec], Awaitable[None] | None]


async def apply_opts(context: SpecContext, spec: Spec, *opts: SpecOpt) -> None:
    """Apply options in order, in place (Go: ApplyOpts).

    When an option raises, those before it have taken effect; the one that raised has changed nothing.

    Raises:
        InvalidArgument: An option refused, or is not one.
    """
    for opt in opts:
        if not callable(opt):
            raise InvalidArgument(
                f"{opt!r} is not an option of the spec; use with_... functions of containerd_aio.oci"
            )
        result = opt(context, spec)
        if inspect.isawaitable(result):
            await result


def compose(*opts: SpecOpt) -> SpecOpt:
    """Make one option of several, applied in order (Go: Compose)."""

    async def composed(context: SpecContext, spec: Spec) -> None:
        await apply_opts(context, spec, *opts)

    return composed
