"""The named pipes through which a shim and a client exchange the standard streams of one process.

The client makes them, opens its ends and names them in the Create or Exec request; the shim opens the other ends.
Layout as in containerd's Go client: ``<root>/<random>/<id>-stdin|stdout|stderr``, everything of mode 0700.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

__all__ = [
    "DEFAULT_FIFO_ROOT",
    "FIFOSet",
    "IOConfig",
    "create_fifos",
    "default_fifo_root",
    "is_path",
    "open_fifo",
]

DEFAULT_FIFO_ROOT = Path("/run/containerd/fifo")
"""Where containerd's Go client keeps its FIFOs."""

_MODE = 0o700
_CURE = "set XDG_RUNTIME_DIR to a directory that is yours"
_MAX_ID_BYTES = 200  # leaves room for the suffix in a file name of 255 bytes


@dataclass(frozen=True, slots=True)
class IOConfig:
    """What a Create or Exec request says about the standard streams of a process.

    Attributes:
        stdin: Path of a FIFO; empty for no stdin.
        stdout: Path of a FIFO, a ``file://`` or ``binary://`` URI, or empty for none.
        stderr: As `stdout`; always empty with a terminal, which has a single output.
        terminal: Whether the process gets a terminal.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False

    @property
    def fifos(self) -> tuple[Path, ...]:
        """The paths among the streams: URIs and empty ones left out."""
        return tuple(Path(name) for name in (self.stdin, self.stdout, self.stderr) if is_path(name))


@dataclass(frozen=True, slots=True)
class FIFOSet:
    """The FIFOs of one process: made by `create_fifos`, or those of a process that runs already."""

    config: IOConfig

    def remove(self) -> None:
        """Remove the FIFOs, and their directory if nothing else is in it. Never raises; may be called again.

        Only FIFOs are removed, never another kind of file: the paths may come from a daemon.
        """
        for path in self.config.fifos:
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(path.lstat().st_mode):
                    path.unlink()
        for directory in {path.parent for path in self.config.fifos}:
            with contextlib.suppress(OSError):
                directory.rmdir()


def is_path(name: str) -> bool:
    """Whether a stream of an `IOConfig` names a FIFO, rather than a log URI or nothing."""
    return bool(name) and "://" not in name


def create_fifos(root: Path, process_id: str, *, stdin: bool, terminal: bool) -> FIFOSet:
    """Make the FIFOs of one process in a fresh directory.

    Args:
        root: Absolute directory for the fresh one; made (mode 0700) when missing.
        process_id: Container id or exec id; becomes part of the file names.
        stdin: Whether the process has a stdin.
        terminal: One output only, and no FIFO for stderr.

    Raises:
        InvalidArgument: The id can't be part of a file name, or `root` is relative.
        PermissionDenied: `root` may not be written.
        FailedPrecondition: `root` is unusable for another reason, such as a full disk.
    """
    _check_id(process_id)
    if not root.is_absolute():
        raise InvalidArgument(
            f"fifo_root must be absolute, the shim has another working directory: {str(root)!r}"
        )
    try:
        root.mkdir(mode=_MODE, parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="", dir=root))
    except OSError as exc:
        raise _unusable(root, exc) from exc
    names = ["stdin"] * stdin + ["stdout"] + ["stderr"] * (not terminal)
    paths = {name: str(directory / f"{process_id}-{name}") for name in names}
    fifos = FIFOSet(IOConfig(**paths, terminal=terminal))
    try:
        for path in paths.values():
            os.mkfifo(path, _MODE)
    except OSError as exc:
        fifos.remove()
        with contextlib.suppress(OSError):
            directory.rmdir()  # also when not even the first FIFO was made
        raise _unusable(root, exc) from exc
    return fifos


def open_fifo(path: str, flags: int) -> int:
    """Open one end of a FIFO without blocking and without passing it on to child processes.

    Args:
        path: The FIFO.
        flags: ``os.O_RDONLY`` or ``os.O_WRONLY``.

    Raises:
        NotFound: There is no such file.
        PermissionDenied: The file may not be opened.
        InvalidArgument: It is not a FIFO.
        FailedPrecondition: It can't be opened for another reason.
    """
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY)
    except FileNotFoundError as exc:
        raise NotFound(
            f"FIFO {path} does not exist: its process was deleted, or it is on another host"
        ) from exc
    except PermissionError as exc:
        raise PermissionDenied(f"FIFO {path} may not be opened by uid {os.geteuid()}") from exc
    except OSError as exc:
        raise FailedPrecondition(f"cannot open FIFO {path}: {exc.strerror}") from exc
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidArgument(f"{path} is not a FIFO")
    return fd


def default_fifo_root() -> Path:
    """The directory for FIFOs when the user names none.

    Returns:
        ``/run/containerd/fifo`` when it can be written (or made), as containerd's Go client has it; otherwise a
        directory of this user under ``XDG_RUNTIME_DIR`` or the system's temporary directory.

    Raises:
        PermissionDenied: The temporary directory that would be used belongs to somebody else.
    """
    existing = next(path for path in (DEFAULT_FIFO_ROOT, *DEFAULT_FIFO_ROOT.parents) if path.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return DEFAULT_FIFO_ROOT
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime_dir.startswith("/") and os.access(runtime_dir, os.W_OK | os.X_OK):
        return Path(runtime_dir) / "containerd-aio" / "fifo"
    directory = Path(tempfile.gettempdir()) / f"containerd-aio-{os.geteuid()}"
    # Everybody may write the parent: take only a directory that is ours and closed to others.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=_MODE)
    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise PermissionDenied(f"{directory} is not a private directory of uid {os.geteuid()}: {_CURE}")
    return directory


def _check_id(process_id: str) -> None:
    if not process_id:
        raise InvalidArgument("the id of a process must not be empty")
    if "/" in process_id or "\0" in process_id:
        raise InvalidArgument(f"the id of a process must not contain a path separator or NUL: {process_id!r}")
    if len(os.fsencode(process_id)) > _MAX_ID_BYTES:
        raise InvalidArgument(
            f"the id of a process is too long (over {_MAX_ID_BYTES} bytes): {process_id[:20]!r}..."
        )


def _unusable(root: Path, exc: OSError) -> PermissionDenied | FailedPrecondition:
    text = f"cannot make FIFOs for standard streams under {root}: {exc.strerror}"
    if isinstance(exc, PermissionError):
        return PermissionDenied(f"{text}; {_CURE}")
    return FailedPrecondition(f"{text}; make room for them, or give io=stdio.null(), which needs none")
