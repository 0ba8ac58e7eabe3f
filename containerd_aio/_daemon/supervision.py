"""When a daemon is started again, and when it counts as hung."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from containerd_aio._daemon.probe import probe
from containerd_aio.errors import ContainerdError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from containerd_aio._daemon.process import WatchedProcess
    from containerd_aio._log import Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """How a `Daemon` is watched over.

    A daemon that has ended is started again, after a delay that doubles with every time it ends soon. One that runs is
    asked for its health again and again; when it has not answered several times in a row it is killed, and started again.

    Attributes:
        interval: Seconds between questions.
        timeout: Seconds for an answer.
        failures: After so many questions in a row without an answer it counts as hung. (Docker counted failures that were
            not in a row, by mistake.)
        first_delay: Seconds before it is started again for the first time.
        longest_delay: The longest such delay, seconds.
        stable_after: Seconds after which a daemon that runs is a good one, and the delays begin anew.

    Raises:
        InvalidArgument: A value can't be used.
    """

    interval: float = 0.5
    timeout: float = 3.0
    failures: int = 3
    first_delay: float = 0.1
    longest_delay: float = 30.0
    stable_after: float = 10.0

    def __post_init__(self) -> None:
        if not (self.interval > 0 and self.timeout > 0 and self.failures >= 1):
            raise InvalidArgument(
                "supervision: interval and timeout are more than 0 seconds, failures at least 1"
            )
        if not 0 < self.first_delay <= self.longest_delay:
            raise InvalidArgument("supervision: the delays are more than 0 seconds, and grow")

    def delay(self, attempt: int) -> float:
        """Return the seconds before a start.

        Args:
            attempt: How many starts there were since it last was stable; 0 for the first one.
        """
        return min(self.longest_delay, self.first_delay * 2.0 ** min(attempt, 60))


@dataclass(eq=False)
class Watchdog:
    """Starts a daemon again whenever it ends by itself or hangs.

    Args:
        supervision: When.
        address: Where it listens.
        log: Where that is logged.
        process: Returns its process, the present or the last one.
        expected_end: Tells whether it was stopped on purpose.
        another: Waits until there is another process than the given one.
        start_again: Starts it, unless it runs or was stopped on purpose; a failure is logged.
    """

    supervision: Supervision
    address: str
    log: Logger
    process: Callable[[], WatchedProcess]
    expected_end: Callable[[], bool]
    another: Callable[[WatchedProcess], Awaitable[None]]
    start_again: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        """Watch until cancelled."""
        attempt = 0
        while True:
            process, began = self.process(), anyio.current_time()
            async with anyio.create_task_group() as group:
                group.start_soon(self._check_health, process)
                await process.exited.wait()
                group.cancel_scope.cancel()
            if anyio.current_time() - began >= self.supervision.stable_after:
                attempt = 0
            if self.process() is not process:
                continue
            if self.expected_end():
                await self.another(process)  # whoever stopped it starts it again
                continue
            delay = self.supervision.delay(attempt)
            attempt += 1
            self.log.warning("containerd is started again", after_seconds=delay, attempt=attempt)
            await anyio.sleep(delay)
            await self.start_again()

    async def _check_health(self, process: WatchedProcess) -> None:
        """Kill a daemon that does not answer; return never."""
        failures = 0
        while True:
            await anyio.sleep(self.supervision.interval)
            try:
                await probe(self.address, timeout=self.supervision.timeout)
                failures = 0
            except (ContainerdError, OSError) as error:
                failures += 1
                self.log.warning("containerd does not answer", failures=failures, error=str(error))
            if failures >= self.supervision.failures and not self.expected_end():
                self.log.error("containerd hangs and is killed", pid=process.pid)
                process.send(signal.SIGKILL)
                failures = 0
