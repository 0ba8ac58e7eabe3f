"""Where a daemon's things go: chosen and checked before anything is touched."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path

from containerd_aio._daemon.cleanup import is_listened_on
from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound

# sockaddr_un.sun_path less the terminating zero, less the ".ttrpc" that containerd appends for its second socket
_MAX_SOCKET = 107 - len(".ttrpc")
_PAUSE = 0.02
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def directories(root: str | os.PathLike[str] | None, state: str | os.PathLike[str] | None) -> tuple[str, str]:
    """Return root and state of a daemon, as absolute paths: those given, or a pair of names of its own.

    Raises:
        InvalidArgument: They can't be used together.
    """
    name = f"containerd-aio-{secrets.token_hex(4)}"
    if root is None:
        resolved_root = f"/var/lib/{name}"
    else:
        resolved_root = os.path.realpath(root)
        name = f"containerd-aio-{hashlib.sha256(os.fsencode(resolved_root)).hexdigest()[:12]}"
    resolved_state = f"/run/{name}" if state is None else os.path.realpath(state)
    if resolved_root == resolved_state:
        raise InvalidArgument(f"root and state are both {resolved_root}; containerd needs two directories")
    if "/" in (resolved_root, resolved_state):
        raise InvalidArgument("root and state can't be the root directory of the file system")
    return resolved_root, resolved_state


def socket_path(address: str | os.PathLike[str] | None, state: str) -> str:
    """Choose or check the path of the gRPC socket.

    Raises:
        InvalidArgument: It is not absolute, or too long.
    """
    path = f"{state}/containerd.sock" if address is None else os.fspath(address).removeprefix("unix://")
    if not path.startswith("/"):
        raise InvalidArgument(f"address={path!r}: a daemon listens on the absolute path of a unix socket")
    if len(os.fsencode(path)) > _MAX_SOCKET:
        raise InvalidArgument(
            f"the socket path {path} has {len(os.fsencode(path))} bytes and may have {_MAX_SOCKET} (108 with the "
            f"'.ttrpc' of its neighbour and a terminating zero); use a shorter state= or address="
        )
    return path


def check_free(*paths: str, patience: float = 0) -> None:
    """Refuse paths of sockets to be made where something is: it would be removed, and listened in its place.

    Args:
        paths: The paths.
        patience: Seconds for which somebody may listen there still: a child that a daemon was about to make when it was
            killed has its sockets until it becomes another program.

    Raises:
        FailedPrecondition: Somebody listens there, or it is no socket.
    """
    end = time.monotonic() + patience
    for path in paths:
        while is_listened_on(path):
            if time.monotonic() < end:
                time.sleep(_PAUSE)  # noqa: TID251 - nobody tells when a socket is let go
                continue
            raise FailedPrecondition(
                f"somebody listens on {path} already, another containerd perhaps; use that one, or give another path"
            )
        if os.path.lexists(path) and not Path(path).is_socket():
            raise FailedPrecondition(f"{path} is there and no socket; remove it, or give another path")


def executable(binary: str | os.PathLike[str] | None, folders: list[str]) -> tuple[str, str]:
    """Find containerd, and make the ``PATH`` on which it finds shims and runc."""
    search = os.pathsep.join([*folders, os.environ.get("PATH", _DEFAULT_PATH)])
    if binary is None:
        found = shutil.which("containerd", path=search)
        if found is None:
            raise NotFound(f"there is no containerd on PATH ({search}); install it or give binary=")
        return found, search
    given = str(Path(binary).absolute())
    if not Path(given).is_file():
        raise InvalidArgument(f"binary={given!r} is not a file")
    if not os.access(given, os.X_OK):
        raise InvalidArgument(f"binary={given!r} is not executable")
    return given, os.pathsep.join([*folders, os.path.dirname(given), os.environ.get("PATH", _DEFAULT_PATH)])  # noqa: PTH120


def make_directories(folder: str) -> list[str]:
    """Make a directory and those above it; return those that were not there."""
    made = []
    for path in (*reversed(Path(folder).parents), Path(folder)):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o711)
            made.append(str(path))
    return made


def write_private(path: str, text: str) -> None:
    """Replace a file in one step, readable by root only: a configuration may hold credentials.

    Raises:
        OSError: It can't be written; the error names it.
    """
    temporary = f"{path}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except OSError as error:  # a full disk is told by a write, which knows no name
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise OSError(error.errno, error.strerror, path) from error


def take_lock(path: str) -> int | None:
    """Lock a file, made if need be; return its descriptor, None while somebody else has it."""
    with contextlib.suppress(FileNotFoundError):  # a predecessor is just removing that directory
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file is removed while it is locked: it may be another one by now.
            if os.path.samestat(os.fstat(lock), os.stat(path)):  # noqa: PTH116
                return lock
        os.close(lock)
    return None
