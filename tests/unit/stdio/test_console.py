"""Our terminal: raw while it must be, as it was in every other moment."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import termios

import anyio
import pytest

from containerd_aio import stdio
from containerd_aio.errors import InvalidArgument, Unavailable
from containerd_aio.stdio.console import WindowSize, raw_mode, window_size, window_sizes

pytestmark = pytest.mark.usefixtures("no_leak")

LFLAG = 3


@pytest.fixture
def terminal():
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    yield master, slave
    os.close(master)
    os.close(slave)


def is_raw(fd: int) -> bool:
    return not termios.tcgetattr(fd)[LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG)


def test_raw_and_back(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with raw_mode(slave):
        assert is_raw(slave)
    assert termios.tcgetattr(slave) == before
    assert os.get_blocking(slave)


def test_back_after_an_error(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with pytest.raises(ZeroDivisionError), raw_mode(slave):
        raise ZeroDivisionError
    assert termios.tcgetattr(slave) == before


async def test_back_after_a_cancellation(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with anyio.CancelScope() as scope, raw_mode(slave):
        scope.cancel()
        await anyio.sleep_forever()
    assert termios.tcgetattr(slave) == before


def test_back_when_the_interpreter_exits(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    program = (
        "from containerd_aio.stdio.console import raw_mode\n"
        "block = raw_mode(0); block.__enter__()\n"
        "import os; os.write(1, b'raw')\n"
        "import builtins; builtins.kept = block\n"
        "raise SystemExit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdin=slave, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (3, b"raw")
    assert termios.tcgetattr(slave) == before


def test_a_terminal_that_was_hung_up():
    master, slave = os.openpty()
    with raw_mode(slave):
        os.close(master)
    os.close(slave)


def test_no_terminal():
    read_end, write_end = os.pipe()
    with pytest.raises(InvalidArgument, match="not a terminal"), raw_mode(read_end):
        pass
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        window_size(read_end)
    os.close(read_end)
    os.close(write_end)


def resize(fd: int, width: int, height: int) -> None:
    termios.tcsetwinsize(fd, (height, width))
    os.kill(os.getpid(), signal.SIGWINCH)


async def test_following_the_size(terminal):
    _, slave = terminal
    assert window_size(slave) == WindowSize(width=80, height=24)
    with window_sizes(slave) as sizes:
        assert await anext(sizes) == (80, 24)
        resize(slave, 80, 24)  # no change: not worth telling
        resize(slave, 100, 30)
        assert await anext(sizes) == (100, 30)
        resize(slave, 0, 0)
        resize(slave, 90, 20)
        assert await anext(sizes) == (90, 20)


async def test_the_handler_that_was_there_comes_back(terminal):
    calls = []
    before = signal.signal(signal.SIGWINCH, lambda *_: calls.append(1))
    try:
        with window_sizes(terminal[1]):
            pass
        os.kill(os.getpid(), signal.SIGWINCH)
        await anyio.lowlevel.checkpoint()
        assert calls == [1]
    finally:
        signal.signal(signal.SIGWINCH, before)


def test_outside_the_main_thread_the_size_is_told_once(terminal):
    async def follow():
        with window_sizes(terminal[1]) as sizes:
            return [size async for size in sizes]

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(anyio.run, follow).result() == [(80, 24)]


async def read_from(master: int, wanted: bytes) -> None:
    seen = b""
    while wanted not in seen:
        await anyio.wait_readable(master)
        seen += os.read(master, 1000)


async def test_a_session(terminal, fifo_root, shim_for):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    creator = stdio.terminal(tty=slave, stdout=slave)
    async with anyio.create_task_group() as tg, await creator.create("shell", fifo_root=fifo_root) as io:
        shim = shim_for(io)
        io.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        shim.open_outputs()
        shim.open_stdin()
        await anyio.wait_all_tasks_blocked()
        assert termios.tcgetattr(slave) == before  # a start that fails must not touch it
        resized = shim.resized
        io.started()
        await resized.wait()
        assert is_raw(slave)
        assert shim.sizes == [(80, 24)]
        os.write(master, b"ls\x03")
        assert await shim.read_stdin() == b"ls\x03"
        await shim.write(b"one\r\ntwo")
        await read_from(master, b"one\r\ntwo")
        resized = shim.resized
        resize(slave, 120, 40)
        await resized.wait()
        assert shim.sizes == [(80, 24), (120, 40)]
        shim.close_outputs()
        assert await io.wait_drained()
        await anyio.wait_all_tasks_blocked()
        assert termios.tcgetattr(slave) == before  # with the end of the output, not only when closed
        assert os.get_blocking(slave)
    assert io.failures == ()


@pytest.mark.parametrize("told", ["started", "exited"])
async def test_output_from_before_the_answer_to_start_meets_a_raw_terminal(
    terminal, fifo_root, shim_for, told
):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    creator = stdio.terminal(tty=slave, stdout=slave)
    async with anyio.create_task_group() as tg, await creator.create("shell", fifo_root=fifo_root) as io:
        shim = shim_for(io)
        io.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        shim.open_outputs()
        shim.open_stdin()
        await shim.write(b"early\r\n")
        await anyio.wait_all_tasks_blocked()
        getattr(io, told)()
        await read_from(master, b"early\r\n")  # a terminal that is not raw would make it \r\r\n
        shim.close_outputs()
        assert await io.wait_drained()
        await anyio.wait_all_tasks_blocked()
        assert termios.tcgetattr(slave) == before
    assert io.failures == ()


@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_a_session_that_is_broken_off(terminal, fifo_root, shim_for, how):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    async with anyio.create_task_group() as tg:
        io = await stdio.terminal(tty=slave, stdout=slave).create("shell", fifo_root=fifo_root)
        shim = shim_for(io)
        resized = shim.resized
        shim.start(io, tg)
        await resized.wait()
        assert is_raw(slave)
        if how == "cancelled":
            tg.cancel_scope.cancel()
        await io.aclose()
        assert termios.tcgetattr(slave) == before
    assert termios.tcgetattr(slave) == before


async def test_a_size_that_cannot_be_told_is_told_by_the_next(terminal, fifo_root, shim_for):
    _, slave = terminal
    told = anyio.Event()

    async def flaky(width, height):
        if width == 80:
            os.kill(os.getpid(), signal.SIGWINCH)
            termios.tcsetwinsize(slave, (height, 81))
            raise Unavailable("restarting")
        told.set()

    creator = stdio.terminal(tty=slave, stdout=slave)
    async with anyio.create_task_group() as tg, await creator.create("shell", fifo_root=fifo_root) as io:
        shim = shim_for(io)
        shim.resize = flaky
        shim.start(io, tg)
        await told.wait()
        assert io.failures == ()
