"""What a driver keeps of its containers on disk, and how it tells a process from another that got its pid later."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from containerd_aio.errors import InvalidArgument
from containerd_aio.execdriver.errors import WaitTimeoutReached

_CONTAINER = "container.json"
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process that can be told from a later one of the same pid.

    Attributes:
        pid: Its pid on the host.
        start_time: When it was started, in clock ticks since boot, as ``/proc/<pid>/stat`` has it.
    """

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessState | None:
        """Return that of a process; None if there is none, or it is a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the name before may hold anything
        return None if fields[0] in {"Z", "X"} else cls(pid, int(fields[19]))

    def is_alive(self) -> bool:
        """Return whether this very process still runs."""
        return ProcessState.of(self.pid) == self

    async def destroy(self, timeout: float, *, signalled: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Kill it with SIGKILL and wait for its end; one that has ended, or whose pid is another's, is left alone.

        Args:
            timeout: Seconds to wait.
            signalled: Called once it has the signal, to thaw it: what is frozen does not even die. It is cancelled when
                the process has ended.

        Raises:
            WaitTimeoutReached: It did not end in time.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.is_alive():  # looked at after the descriptor is bound to whoever has the pid now
                return
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            with anyio.move_on_after(timeout) as waiting:
                async with anyio.create_task_group() as group:
                    group.start_soon(signalled)
                    await anyio.wait_readable(descriptor)
                    group.cancel_scope.cancel()
            if waiting.cancelled_caught:
                raise WaitTimeoutReached(f"process {self.pid} lives {timeout:g} s after SIGKILL")
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


class StateFiles:
    """The directory of a driver: ``<root>/<id>/container.json`` while a container runs, and ``state.json`` beside it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute()

    def _folder(self, container_id: str) -> Path:
        if not container_id or "/" in container_id or container_id in {".", ".."}:
            raise InvalidArgument(f"{container_id!r} is not the id of a container")
        return self.root / container_id

    def write(self, container_id: str, command: dict[str, Any]) -> None:
        """Keep the command."""
        folder = self._folder(container_id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / _CONTAINER).write_text(json.dumps(command), encoding="utf-8")

    def write_process(self, container_id: str, process: ProcessState) -> None:
        """Keep which process it is."""
        (self._folder(container_id) / _STATE).write_text(json.dumps(asdict(process)), encoding="utf-8")

    def process(self, container_id: str) -> ProcessState | None:
        """Return the process that was kept; None if there is none, or it can't be read."""
        try:
            kept = json.loads((self._folder(container_id) / _STATE).read_text(encoding="utf-8"))
            return ProcessState(int(kept["pid"]), int(kept["start_time"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def command(self, container_id: str) -> dict[str, Any] | None:
        """Return the command that was kept; None if there is none, or it can't be read."""
        try:
            kept: Any = json.loads((self._folder(container_id) / _CONTAINER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) else None

    def knows(self, container_id: str) -> bool:
        """Return whether it was run by a driver of this directory, and not removed after it."""
        return any((self._folder(container_id) / name).exists() for name in (_CONTAINER, _STATE))

    def remove(self, container_id: str) -> None:
        """Forget a container that has ended; its directory stays for `clean`."""
        for name in (_CONTAINER, _STATE):
            (self._folder(container_id) / name).unlink(missing_ok=True)

    def clean(self, container_id: str) -> None:
        """Remove everything that is kept of a container."""
        shutil.rmtree(self._folder(container_id), ignore_errors=True)
