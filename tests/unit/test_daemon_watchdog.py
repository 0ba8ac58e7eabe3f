"""E39: when a daemon is started again, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import Supervision, Unavailable
from containerd_aio._daemon import supervision
from containerd_aio._log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.looptime


class Process:
    """A daemon that ends when it is told to."""

    pid = 1

    def __init__(self) -> None:
        self.exited = anyio.Event()

    def send(self, _signum: int) -> None:
        self.exited.set()


class Kept:
    """What a watchdog watches: a daemon that is started again, or is not.

    Attributes:
        process: Its process.
        expected_end: Whether it is stopped on purpose.
        starts: When it was to be started again.
        succeed: Whether that succeeds.
    """

    def __init__(self) -> None:
        self.process = Process()
        self.expected_end = False
        self.starts: list[float] = []
        self.succeed = True
        self._begun = anyio.Event()

    def begin(self) -> None:
        self.process = Process()
        begun, self._begun = self._begun, anyio.Event()
        begun.set()

    async def another(self, process: Any) -> None:
        while self.process is process:
            await self._begun.wait()

    async def start_again(self) -> None:
        self.starts.append(anyio.current_time())
        if self.succeed:
            self.begin()

    def watchdog(self, **numbers: Any) -> supervision.Watchdog:
        process: Callable[[], Any] = lambda: self.process  # noqa: E731
        return supervision.Watchdog(
            Supervision(**numbers), "/x", get_logger("t"), process, lambda: self.expected_end, self.another,
            self.start_again,
        )  # fmt: skip


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Have daemons answer for as long as this list is empty."""
    silent: list[bool] = []

    async def probe(_address: str, *, timeout: float) -> str:
        await anyio.sleep(timeout if silent else 0)
        if silent:
            raise Unavailable("silent")
        return "1"

    monkeypatch.setattr(supervision, "probe", probe)
    return silent


async def test_E39_what_is_stopped_on_purpose_is_not_started_however_long_it_takes(
    answering: list[bool],
) -> None:
    kept = Kept()
    async with anyio.create_task_group() as group:
        group.start_soon(kept.watchdog().run)
        await anyio.sleep(5)
        kept.expected_end = True
        kept.process.exited.set()
        await anyio.sleep(10_000)
        assert kept.starts == []
        kept.begin()
        kept.expected_end = False
        await anyio.sleep(5)
        began = anyio.current_time()
        kept.process.exited.set()
        await anyio.sleep(5)
        assert kept.starts == pytest.approx([began + 0.1])
        group.cancel_scope.cancel()


async def test_E39_the_delays_double_up_to_the_longest_and_begin_anew_after_a_good_run(
    answering: list[bool],
) -> None:
    kept = Kept()
    kept.succeed = False
    async with anyio.create_task_group() as group:
        group.start_soon(kept.watchdog(first_delay=1, longest_delay=5, stable_after=10).run)
        await anyio.sleep(20)
        began = anyio.current_time()
        kept.process.exited.set()
        await anyio.sleep(17.5)
        assert [at - began for at in kept.starts] == pytest.approx([1, 3, 7, 12, 17])
        kept.succeed = True
        await anyio.sleep(50)
        assert len(kept.starts) == 6
        kept.process.exited.set()
        await anyio.sleep(1.5)
        assert len(kept.starts) == 7
        group.cancel_scope.cancel()


async def test_E39_failures_count_in_a_row_and_then_it_is_killed(answering: list[bool]) -> None:
    kept = Kept()
    async with anyio.create_task_group() as group:
        group.start_soon(kept.watchdog(interval=1, timeout=1, failures=3).run)
        for _ in range(10):
            answering.append(True)
            await anyio.sleep(4.5)  # two questions without an answer
            answering.clear()
            await anyio.sleep(2.5)
            assert not kept.process.exited.is_set()
        first = kept.process
        answering.append(True)
        await anyio.sleep(6.5)
        assert first.exited.is_set()
        group.cancel_scope.cancel()
    assert len(kept.starts) == 1
