"""Cancelled at any await, nothing is left: no descriptor, no FIFO, no task, no raw terminal."""

import os
import termios

import anyio
import pytest

from containerd_aio import stdio
from containerd_aio.stdio.creators import Descriptors

pytestmark = pytest.mark.usefixtures("no_leak")


async def cancelled_after(turns: int, scenario) -> bool:
    """Run a scenario and cancel it after so many turns of the event loop; tell whether it got so far."""

    async def canceller(scope):
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    finished = False
    async with anyio.create_task_group() as tg:
        with anyio.CancelScope() as scope:
            tg.start_soon(canceller, scope)
            await scenario()
            finished = True
        tg.cancel_scope.cancel()
    return finished


async def life(creator, fifo_root, shim_for, tg):
    """Create, start, some traffic both ways, exit, drain, close."""
    async with await creator.create("job", fifo_root=fifo_root) as io:
        shim = shim_for(io)
        shim.start(io, tg)
        os.write(shim.write_ends["stdout"], b"out")
        if "stderr" in shim.write_ends:
            os.write(shim.write_ends["stderr"], b"err")
        if io.stdin is not None:
            await io.stdin.send(b"in")
            await io.stdin.aclose()
            assert await io.stdout.receive() == b"out"
        if io.config.stdin and not io.config.terminal:
            assert await shim.read_stdin_to_end() == b"in"
        shim.vanish()
        assert await io.wait_drained()


CREATORS = {
    "pipes": lambda _: stdio.pipes(stdin=True),
    "capture": lambda _: stdio.capture(stdin=b"in"),
    "inherit": lambda _: Descriptors(stdin=None, stdout=1, stderr=2),
    "files": lambda tmp_path: stdio.files(stdout=tmp_path / "out", stderr=tmp_path / "err"),
}


@pytest.mark.parametrize("name", CREATORS)
async def test_at_every_await(name, tmp_path, fifo_root, shim_for):
    creator = CREATORS[name](tmp_path)
    for turns in range(200):
        async with anyio.create_task_group() as client:
            finished = await cancelled_after(turns, lambda: life(creator, fifo_root, shim_for, client))
        assert not fifo_root.exists() or list(fifo_root.iterdir()) == [], f"cancelled after {turns} turns"
        if finished:
            return
    pytest.fail("the scenario never finished")


async def test_with_the_client_cancelled_at_every_await(fifo_root, shim_for):
    """The whole client goes, copiers included, while a task of it is in the middle of its life."""

    async def scenario():
        async with anyio.create_task_group() as client:
            await life(stdio.capture(stdin=b"in"), fifo_root, shim_for, client)

    for turns in range(200):
        finished = await cancelled_after(turns, scenario)
        assert not fifo_root.exists() or list(fifo_root.iterdir()) == []
        if finished:
            return
    pytest.fail("the scenario never finished")


async def test_the_terminal_comes_back_at_every_await(fifo_root, shim_for):
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    before = termios.tcgetattr(slave)
    creator = stdio.terminal(tty=slave, stdout=slave)
    for turns in range(200):
        async with anyio.create_task_group() as client:
            finished = await cancelled_after(turns, lambda: life(creator, fifo_root, shim_for, client))
        assert termios.tcgetattr(slave) == before, f"cancelled after {turns} turns"
        if finished:
            break
    else:
        pytest.fail("the scenario never finished")
    os.close(master)
    os.close(slave)
