"""What a `Backend` is told: the states of Docker's libcontainerd, and the value that carries one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STATE_START: Final = "start-container"
"""The init process runs. Told by `Client.create` before it returns, and by every start of a restart manager."""
STATE_PAUSE: Final = "pause"
"""Every process of the container was frozen."""
STATE_RESUME: Final = "resume"
"""Every process of the container was thawed."""
STATE_EXIT: Final = "exit"
"""The init process has ended and with it the container; nothing of it is left in containerd but its record."""
STATE_RESTART: Final = "restart"
"""As `STATE_EXIT`, but the restart manager of the container will start it again."""
STATE_RESTORE: Final = "restore"
"""`Client.restore` found the container running."""
STATE_START_PROCESS: Final = "start-process"
"""An exec was started. libcontainerd declared it and never sent it; here clients may ask for it."""
STATE_EXIT_PROCESS: Final = "exit-process"
"""An exec has ended."""
STATE_OOM: Final = "oom"
"""The kernel killed for lack of memory in the container, whose state has not changed: it may go on. Once per report."""

INIT_FRIENDLY_NAME: Final = "init"
"""The name of a container's first process among its processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInfo:
    """The new state of a container (Go: ``StateInfo`` and the ``CommonStateInfo`` in it).

    Attributes:
        state: One of the ``STATE_*`` strings.
        pid: Host pid of the process that it is about: of the exec for ``start-process`` and ``exit-process``, else of
            init. 0 when it is not known. (Docker set it for starts and restores only.)
        exit_code: How the process ended, for ``exit``, ``restart`` and ``exit-process``: 0-255, 128 + N after signal N.
        process_id: Name of the exec; empty when it is about the container.
        oom_killed: For exits: the kernel has killed in this container for lack of memory, not necessarily this process.
        unknown: The real exit code is lost, and `exit_code` 255 stands for it. Docker could not tell this from a 255.
    """

    state: str
    pid: int = 0
    exit_code: int = 0
    process_id: str = ""
    oom_killed: bool = False
    unknown: bool = False
