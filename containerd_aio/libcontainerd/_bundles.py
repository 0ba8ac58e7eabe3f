"""Small files that outlive this process: how containers ended, and when something was last heard."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_aio._log import get_logger
from containerd_aio.libcontainerd.states import StateInfo

if TYPE_CHECKING:
    import os

_log = get_logger(__name__)


class Bundles:
    """A directory for each container.

    An exit is written down before its task is deleted and forgotten once the backend has taken it, so that a process that
    is killed in between finds it when it restores the container.

    Args:
        root: The directory above them.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def directory(self, container_id: str) -> Path:
        """Return the directory of a container; it need not exist."""
        return self.root / container_id

    def record_exit(self, container_id: str, info: StateInfo) -> None:
        """Write down how a container ended."""
        write_atomically(self._exit(container_id), json.dumps(asdict(info)))

    def recorded_exit(self, container_id: str) -> StateInfo | None:
        """Return what was written down; None when nothing was."""
        try:
            return StateInfo(**json.loads(self._exit(container_id).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def forget_exit(self, container_id: str) -> None:
        """Forget it: the container is started again."""
        with contextlib.suppress(OSError):
            self._exit(container_id).unlink()

    def remove(self, container_id: str) -> None:
        """Remove what is kept of a container, but for checkpoints."""
        self.forget_exit(container_id)
        with contextlib.suppress(OSError):
            self.directory(container_id).rmdir()

    def _exit(self, container_id: str) -> Path:
        return self.directory(container_id) / "exit.json"


class Marker:
    """The time at which a backend was last told of something, in a file; nothing depends on it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> datetime | None:
        """Return the time; None when there is none, or it can't be read."""
        try:
            return datetime.fromisoformat(self._path.read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return None

    def write(self) -> None:
        """Write the present time, in one step; a failure is logged."""
        try:
            write_atomically(self._path, datetime.now(UTC).isoformat() + "\n")
        except OSError as exc:
            _log.warning("the last-event marker can't be written", path=str(self._path), error=str(exc))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step; its directory is made if need be.

    Raises:
        OSError: It can't be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it.

    Raises:
        OSError: It can't be removed.
    """
    shutil.rmtree(path)
