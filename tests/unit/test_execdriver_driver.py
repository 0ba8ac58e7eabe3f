"""The driver on a fake containerd: what is refused, what takes too long, and cancellation at every call."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client
from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound
from containerd_aio.execdriver import (
    Command,
    ContainerdDriver,
    ExitStatus,
    Ipc,
    Network,
    NotRunning,
    Pipes,
    ProcessConfig,
    WaitTimeoutReached,
)
from containerd_aio.execdriver.state import ProcessState
from containerd_aio.testing.fake import FakeContainerd
from containerd_aio.testing.fake.fates import RUNS_FOR_EVER


@pytest.fixture
async def fake() -> AsyncIterator[FakeContainerd]:
    async with FakeContainerd(default=RUNS_FOR_EVER) as running:
        yield running


@pytest.fixture
async def client(fake: FakeContainerd) -> AsyncIterator[Client]:
    async with Client(fake.address, namespace="ns") as opened:
        yield opened


@pytest.fixture
def driver(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerdDriver:
    """A driver to which the fake's processes, which are none, are this very process."""
    own = ProcessState.of(os.getpid())
    monkeypatch.setattr(ProcessState, "of", lambda _: own)
    return ContainerdDriver(client, root=tmp_path / "driver", start_timeout=5, wait_timeout=3)


def command(**changes: Any) -> Command:
    config = ProcessConfig(entrypoint="job", user="0:0")
    return Command(**{"id": "a", "rootfs": "/", "process_config": config, **changes})


async def left(client: Client, driver: ContainerdDriver, fake: FakeContainerd, tmp_path: Path) -> list[str]:
    files = [str(path) for path in (tmp_path / "driver").rglob("*.json")]
    return [*files, *(each.id for each in await client.containers()), *map(str, fake.tasks)]


@pytest.mark.parametrize(
    "rpc", ["Containers/Create", "Tasks/Create", "Tasks/Start", "Tasks/Delete", "Containers/Delete"]
)
async def test_cancelled_at_any_call_it_leaves_nothing(
    client: Client, driver: ContainerdDriver, fake: FakeContainerd, tmp_path: Path, rpc: str
) -> None:
    held = fake.hold(rpc)
    async with anyio.create_task_group() as tg:

        async def run() -> None:
            await driver.run(command(), Pipes(), lambda *_: fake.exit("a", namespace="ns"))

        tg.start_soon(run)
        await held.reached()
        tg.cancel_scope.cancel()
        held.remove()
        held.release()
    assert await left(client, driver, fake, tmp_path) == []
    assert not driver.info("a").is_running()


@pytest.mark.looptime
async def test_a_start_that_takes_too_long(
    client: Client, driver: ContainerdDriver, fake: FakeContainerd, tmp_path: Path
) -> None:
    with fake.hold("Tasks/Start", before=True):
        with pytest.raises(NotRunning, match="Process could not be started: not within 5 s"):
            await driver.run(command(), Pipes())
    assert await left(client, driver, fake, tmp_path) == []


@pytest.mark.looptime
@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("before", [False, True])
async def test_an_exec_whose_start_takes_too_long_is_removed(
    client: Client, driver: ContainerdDriver, fake: FakeContainerd, before: bool, tty: bool
) -> None:
    started = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: driver.run(command(), Pipes(), lambda *_: started.set()))
        await started.wait()
        task = await (await client.container("a")).task()
        open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with fake.hold("Tasks/Start", before=before):
            with pytest.raises(NotRunning, match="not within 5 s"):
                await driver.exec(command(), ProcessConfig(entrypoint="e", tty=tty), Pipes())
        assert [process.exec_id for process in await task.processes()] == [None]
        assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
        fake.exit("a", namespace="ns")


async def test_what_is_to_be_killed_dies_though_containerd_does_not_answer() -> None:
    async with await anyio.open_process(["sleep", "1000"]) as process:
        state = ProcessState.of(process.pid)
        assert state is not None
        with anyio.fail_after(20):
            await state.destroy(10, signalled=anyio.sleep_forever)  # nobody thaws it
        assert await process.wait() == -9


async def test_a_process_of_another_machine(
    client: Client, fake: FakeContainerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessState, "of", lambda _: None)
    driver = ContainerdDriver(client, root=tmp_path / "driver")
    with pytest.raises(NotRunning, match="is not on this machine"):
        await driver.run(command(), Pipes())
    assert await left(client, driver, fake, tmp_path) == []


@pytest.mark.looptime
async def test_terminate_waits_only_so_long_for_a_callback_that_never_returns(
    driver: ContainerdDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def signalled(*_: object, **__: object) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(ProcessState, "destroy", signalled)
    wanted = command()
    async with anyio.create_task_group() as tg:

        async def run(*, task_status: Any) -> None:
            async def stuck(_: ProcessConfig, pid: int) -> None:
                task_status.started(pid)
                await anyio.sleep_forever()

            await driver.run(wanted, Pipes(), stuck)

        await tg.start(run)
        began = anyio.current_time()
        with pytest.raises(WaitTimeoutReached, match="a is still there 3 s after its end"):
            await driver.terminate(wanted)
        assert anyio.current_time() - began == pytest.approx(3)
        tg.cancel_scope.cancel()


async def test_the_exit_is_told_as_it_was(driver: ContainerdDriver, fake: FakeContainerd) -> None:
    status = await driver.run(command(), Pipes(), lambda *_: fake.exit("a", 9, namespace="ns"))
    assert status == ExitStatus(9, oom_killed=False)


async def test_only_what_runs_can_be_joined(client: Client, driver: ContainerdDriver) -> None:
    spec: Any = {"ociVersion": "1", "process": {"args": ["x"], "cwd": "/"}}
    container = await client.new_container("other", spec=spec)
    for changes in ({"network": Network(container_id="other")}, {"ipc": Ipc(container_id="other")}):
        with pytest.raises(FailedPrecondition, match="other is not a valid running container to join"):
            await driver.run(command(**changes), Pipes())
    task = await container.new_task()
    with pytest.raises(FailedPrecondition, match="not a valid running container"):
        await driver.run(command(network=Network(container_id="other")), Pipes())
    await task.delete(kill=True)


async def test_of_what_does_not_run_nothing_can_be_done(driver: ContainerdDriver) -> None:
    for verb in (driver.pause(command()), driver.unpause(command()), driver.kill(command(), 9)):
        with pytest.raises(NotFound, match="active container for a does not exist"):
            await verb
    await driver.terminate(command())
    await driver.clean("a")


@pytest.mark.parametrize("name", ["start_timeout", "wait_timeout"])
def test_timeouts_are_positive(client: Client, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} is 0; it must be more than 0 seconds"):
        ContainerdDriver(client, **{name: 0})  # type: ignore[arg-type]
