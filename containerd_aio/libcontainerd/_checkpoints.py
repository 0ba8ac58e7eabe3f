"""Checkpoints in directories: ``<directory>/<name>/config.json`` says what it is, ``image/`` has the files of CRIU.

containerd 0.2 kept them so. Today's containerd keeps none by itself: its shim writes them where it is told to.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through
from containerd_aio._identifiers import check_identifier
from containerd_aio.api.containerd.runc.v1 import CheckpointOptions
from containerd_aio.api.containerd.services.tasks.v1 import CheckpointTaskRequest
from containerd_aio.errors import AlreadyExists, InvalidArgument, NotFound
from containerd_aio.libcontainerd._bundles import remove_tree, write_atomically
from containerd_aio.libcontainerd.types import Checkpoint, Checkpoints

if TYPE_CHECKING:
    from containerd_aio import Task
    from containerd_aio.services.stubs import Services

_CONFIG = "config.json"
_IMAGE = "image"


class CheckpointDirectory:
    """A directory with checkpoints of one container.

    Args:
        path: The directory; it need not exist.

    Raises:
        InvalidArgument: The path is relative.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_absolute():
            raise InvalidArgument(f"checkpoint_dir {str(path)!r} must be absolute: the shim writes there")
        self._path = path

    def image(self, name: str) -> str:
        """Return the directory with the image of a checkpoint.

        Raises:
            NotFound: There is no such checkpoint.
        """
        return str(self._existing(name) / _IMAGE)

    async def create(self, task: Task, services: Services, name: str, *, leave: bool) -> None:
        """Save a container.

        Args:
            task: Its task.
            services: The calls of containerd.
            name: Name of the checkpoint.
            leave: Whether the container is stopped by it.

        Raises:
            AlreadyExists: There is a checkpoint of that name.
            Unknown: CRIU could not do it; the text is runc's.
        """
        check_identifier(name, "checkpoint id")
        folder = self._path / name
        if (folder / _CONFIG).exists():
            raise AlreadyExists(f"there is a checkpoint {name!r} in {self._path} already")
        if folder.exists():  # of a process that was killed while one was made
            await anyio.to_thread.run_sync(remove_tree, folder)
        folder.mkdir(mode=0o700, parents=True)
        checkpoint = Checkpoint(name=name, exit=leave, created=datetime.now(UTC))
        options = CheckpointOptions(
            exit=leave,
            open_tcp=checkpoint.tcp,
            external_unix_sockets=checkpoint.unix_sockets,
            terminal=checkpoint.shell,
            empty_namespaces=list(checkpoint.empty_ns),
            image_path=str(folder / _IMAGE),
        )
        request = CheckpointTaskRequest(container_id=task.container_id, options=typeurl.pack(options))

        async def undo() -> None:
            await anyio.to_thread.run_sync(_remove_quietly, folder)

        try:
            await anyio.Path(folder / _IMAGE).mkdir(mode=0o700)
            await carry_through(lambda: services.tasks.checkpoint(request), undo=undo)
            write_atomically(folder / _CONFIG, json.dumps(_to_json(checkpoint)))
        except BaseException:
            _remove_quietly(folder)
            raise

    async def delete(self, name: str) -> None:
        """Remove a checkpoint.

        Raises:
            NotFound: There is no such checkpoint.
        """
        await anyio.to_thread.run_sync(remove_tree, self._existing(name))

    def list(self) -> Checkpoints:
        """Return all checkpoints, by name; none when the directory does not exist."""
        found = []
        for config in sorted(self._path.glob(f"*/{_CONFIG}")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                found.append(_from_json(json.loads(config.read_text(encoding="utf-8"))))
        return Checkpoints(tuple(found))

    def _existing(self, name: str) -> Path:
        check_identifier(name, "checkpoint id")
        folder = self._path / name
        if not (folder / _CONFIG).is_file():
            raise NotFound(f"there is no checkpoint {name!r} in {self._path}")
        return folder


def _remove_quietly(folder: Path) -> None:
    with suppress(OSError):
        remove_tree(folder)


# The names are those that containerd 0.2 wrote.
def _to_json(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "name": checkpoint.name,
        "created": checkpoint.created.isoformat() if checkpoint.created else "",
        "tcp": checkpoint.tcp,
        "unixSockets": checkpoint.unix_sockets,
        "shell": checkpoint.shell,
        "exit": checkpoint.exit,
        "emptyNS": list(checkpoint.empty_ns),
    }


def _from_json(fields: dict[str, object]) -> Checkpoint:
    created = str(fields.get("created", ""))
    namespaces = fields.get("emptyNS")
    return Checkpoint(
        name=str(fields["name"]),
        exit=bool(fields.get("exit")),
        tcp=bool(fields.get("tcp")),
        unix_sockets=bool(fields.get("unixSockets")),
        shell=bool(fields.get("shell")),
        empty_ns=tuple(str(name) for name in namespaces) if isinstance(namespaces, list) else (),
        created=datetime.fromisoformat(created) if created else None,
    )
