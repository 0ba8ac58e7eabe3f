"""`StdinStream`: bytes and the end reach the process, whenever they are sent."""

import contextlib
import os

import anyio
import pytest

from containerd_aio.errors import NotFound, Unavailable
from containerd_aio.stdio.fifo import IOConfig
from containerd_aio.stdio.fifo_streams import StdinStream

pytestmark = pytest.mark.usefixtures("no_leak")

BIG = bytes(range(256)) * 2000  # more than a pipe holds


@pytest.fixture
async def stdin(tmp_path):
    path = tmp_path / "in"
    os.mkfifo(path)
    stream = StdinStream(str(path))
    yield stream
    stream.abandon()


@pytest.fixture
def shim(stdin, tmp_path, shim_for):
    """A shim that has not opened its end yet."""

    class IO:
        config = IOConfig(stdin=str(tmp_path / "in"))

    return shim_for(IO)


@contextlib.asynccontextmanager
async def connecting(stdin, shim):
    """Run what runs beside a process; yields the event to set when it starts."""
    started = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(stdin.connect, started, shim.close_io)
        yield started
        tg.cancel_scope.cancel()


async def test_bytes_and_the_end_after_the_start(stdin, shim):
    async with connecting(stdin, shim) as started:
        shim.open_stdin()
        started.set()
        await stdin.send(b"one")
        assert await shim.read_stdin() == b"one"
        await stdin.send(b"two")
        await anyio.wait_all_tasks_blocked()
        await stdin.aclose()
        assert shim.close_io_calls == 1
        assert await shim.read_stdin_to_end() == b"two"


async def test_bytes_and_the_end_before_the_start(stdin, shim):
    async with connecting(stdin, shim) as started:
        await stdin.send(b"early")
        await stdin.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stdin.send(b"late")
        shim.open_stdin()
        await anyio.wait_all_tasks_blocked()
        assert shim.close_io_calls == 0  # the daemon would refuse it, or take it for done
        started.set()
        assert await shim.read_stdin_to_end() == b"early"
        assert shim.close_io_calls == 1


async def test_the_end_alone_before_the_start(stdin, shim):
    async with connecting(stdin, shim) as started:
        await stdin.aclose()
        await stdin.aclose()
        started.set()
        shim.open_stdin()
        assert await shim.read_stdin_to_end() == b""
        assert shim.close_io_calls == 1


async def test_a_shim_that_opens_a_moment_after_answering_start(stdin, shim):
    async with connecting(stdin, shim) as started:
        await stdin.send(b"early")
        await stdin.aclose()
        started.set()
        await anyio.wait_all_tasks_blocked()  # the first look at the FIFO has found no reader
        assert shim.close_io_calls == 0
        shim.open_stdin()
        assert await shim.read_stdin_to_end() == b"early"


@pytest.mark.parametrize("begin", ["before start", "after start", "after the shim"])
async def test_more_than_a_pipe_holds(stdin, shim, begin):
    async with connecting(stdin, shim) as started:
        async with anyio.create_task_group() as tg:
            if begin == "before start":
                tg.start_soon(stdin.send, BIG)
                await anyio.wait_all_tasks_blocked()
            started.set()
            if begin == "after start":
                await anyio.wait_all_tasks_blocked()
                tg.start_soon(stdin.send, BIG)
                await anyio.wait_all_tasks_blocked()
            shim.open_stdin()
            if begin == "after the shim":
                tg.start_soon(stdin.send, BIG)
            received = b""
            while len(received) < len(BIG):
                received += await shim.read_stdin(7777)
        assert received == BIG


async def test_a_process_that_closes_its_stdin(stdin, shim):
    async with connecting(stdin, shim) as started:
        shim.open_stdin()
        started.set()
        await stdin.send(b"x")
        assert await shim.read_stdin() == b"x"
        await anyio.wait_all_tasks_blocked()
        os.close(shim.stdin)
        shim.stdin = None
        with pytest.raises(anyio.BrokenResourceError):
            await stdin.send(b"y")
        assert stdin.broken
        await stdin.aclose()
        assert shim.close_io_calls == 0


async def test_a_process_that_read_and_went_before_anybody_looked(stdin, shim):
    async with connecting(stdin, shim) as started:
        await stdin.send(b"x")
        shim.open_stdin()
        assert await shim.read_stdin() == b"x"
        os.close(shim.stdin)
        shim.stdin = None
        started.set()
        with pytest.raises(anyio.BrokenResourceError):
            await stdin.send(BIG)


@pytest.mark.parametrize("is_started", [False, True])
async def test_abandoning_wakes_a_sender(stdin, shim, is_started):
    async with connecting(stdin, shim) as started:
        if is_started:
            shim.open_stdin()
            started.set()

        async def send():
            with pytest.raises(anyio.BrokenResourceError):
                await stdin.send(BIG)

        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            stdin.abandon()
        await stdin.aclose()
        assert shim.close_io_calls == 0


async def test_closing_wakes_a_sender(stdin, shim):
    async with connecting(stdin, shim) as started:
        shim.open_stdin()
        started.set()
        await stdin.send(b"x")
        await anyio.wait_all_tasks_blocked()

        async def send():
            with pytest.raises(anyio.ClosedResourceError):
                await stdin.send(BIG)

        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await stdin.aclose()


async def test_one_sender_at_a_time(stdin):
    async with anyio.create_task_group() as tg:
        tg.start_soon(stdin.send, BIG)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stdin.send(b"x")
        tg.cancel_scope.cancel()


async def connected(stdin, shim, close_remote) -> None:
    event = anyio.Event()
    event.set()
    shim.open_stdin()
    await stdin.connect(event, close_remote)


async def test_a_daemon_that_could_not_be_told_is_told_by_the_next_close(stdin, shim):
    calls = []

    async def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("restarting")

    await connected(stdin, shim, flaky)
    with pytest.raises(Unavailable):
        await stdin.aclose()
    await stdin.aclose()
    await stdin.aclose()
    assert len(calls) == 2


async def test_a_process_that_is_gone_is_no_error(stdin, shim):
    async def gone():
        raise NotFound("process does not exist")

    await connected(stdin, shim, gone)
    await stdin.aclose()


async def test_the_daemon_is_told_also_when_cancelled(stdin, shim):
    told = anyio.Event()
    entered = anyio.Event()

    async def slow():
        entered.set()
        await anyio.wait_all_tasks_blocked()
        told.set()

    await connected(stdin, shim, slow)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stdin.aclose)
        await entered.wait()
        tg.cancel_scope.cancel()
    assert told.is_set()


def test_a_failed_open_closes_what_was_open(tmp_path, monkeypatch):
    path = tmp_path / "in"
    os.mkfifo(path)
    real, opened = os.open, []

    def fail_second(*args, **kwargs):
        if opened:
            raise PermissionError(13, "no")
        opened.append(real(*args, **kwargs))
        return opened[0]

    monkeypatch.setattr(os, "open", fail_second)
    with pytest.raises(Exception, match="may not be opened"):
        StdinStream(str(path))
    with pytest.raises(OSError):
        os.fstat(opened[0])
