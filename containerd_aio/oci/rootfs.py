"""Read a file of a container's root filesystem without ever leaving it.

The root filesystem is somebody else's: any part of a path may be a symlink, also one to ``/`` or ``../../..``, and the
file may be a FIFO or huge. The path is walked one component at a time with directory descriptors, symlinks are read
and resolved here (an absolute one starts at the root again, ``..`` stops there), and the kernel is never allowed to
follow one; so nothing outside is reachable, also when the tree changes meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from containerd_aio.errors import InvalidArgument

#: As much as Go's client reads of ``/etc/passwd`` or ``/etc/group``.
MAX_FILE_SIZE = 10 << 20
_MAX_SYMLINKS = 255


def read_in_root(root: str | os.PathLike[str], path: str, *, limit: int = MAX_FILE_SIZE) -> bytes:
    """Return the content of a regular file, `path` being seen from inside `root`.

    Args:
        root: Directory of the host that is the container's ``/``.
        path: Path inside, such as ``/etc/passwd``.
        limit: Most bytes to accept.

    Raises:
        FileNotFoundError: There is no such file inside the root.
        InvalidArgument: It is not a regular file, is larger than `limit`, or is behind too many symlinks.
        OSError: It can't be read.
    """
    with ExitStack() as stack:
        descriptor = _open(stack, root, path)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidArgument(f"{path} in the container's root filesystem is larger than {limit} bytes")
    return data


def _open(stack: ExitStack, root: str | os.PathLike[str], path: str) -> int:
    """Open the file for reading; descriptors are closed by `stack`."""

    def keep(descriptor: int) -> int:
        stack.callback(os.close, descriptor)
        return descriptor

    directories = [keep(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))]
    todo = _components(path)
    links = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if len(directories) > 1:
                directories.pop()
            continue
        found = keep(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directories[-1]))
        mode = os.fstat(found).st_mode
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MAX_SYMLINKS:
                raise InvalidArgument(
                    f"{path} in the container's root filesystem is behind too many symlinks"
                )
            target = os.readlink("", dir_fd=found)
            if target.startswith("/"):
                del directories[1:]
            todo += _components(target)
        elif stat.S_ISDIR(mode):
            directories.append(found)
        elif todo:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        elif not stat.S_ISREG(mode):
            break
        else:
            # The descriptor names this very file; opening it again by /proc can't reach another one.
            return keep(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC))
    raise InvalidArgument(f"{path} in the container's root filesystem is not a regular file")


def _components(path: str) -> list[str]:
    """Return the parts of a path, the last one first, without those that mean nothing."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]
