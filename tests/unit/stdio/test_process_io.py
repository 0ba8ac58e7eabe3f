"""`ProcessIO` through the life of a process: no output is lost, nothing hangs, nothing is left."""

import asyncio
import io
import os

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream

from containerd_aio import stdio
from containerd_aio.errors import FailedPrecondition, Unavailable
from containerd_aio.stdio.creators import Descriptors

pytestmark = pytest.mark.usefixtures("no_leak")

MEGABYTE = os.urandom(1_000_000)


async def test_a_megabyte_on_both_outputs_is_captured(fifo_root, shim_for):
    async with (
        anyio.create_task_group() as tg,
        await stdio.capture().create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        shim.start(io_, tg)
        async with anyio.create_task_group() as process:
            process.start_soon(shim.write, MEGABYTE, "stdout")
            process.start_soon(shim.write, MEGABYTE[::-1], "stderr")
        shim.vanish()
        assert await io_.wait_drained()
    assert io_.captured == stdio.Captured(stdout=MEGABYTE, stderr=MEGABYTE[::-1])
    assert io_.failures == ()


async def test_a_limit_does_not_stop_the_process(fifo_root, shim_for):
    async with (
        anyio.create_task_group() as tg,
        await stdio.capture(limit=10).create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        shim.start(io_, tg)
        await shim.write(MEGABYTE * 3)
        shim.vanish()
        assert await io_.wait_drained()
        assert io_.captured == stdio.Captured(MEGABYTE[:10], b"", stdout_truncated=True)


async def test_pipes_can_be_read_after_the_task_was_deleted(fifo_root, shim_for):
    async with anyio.create_task_group() as tg, await stdio.pipes().create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        await shim.write(b"out" * 1000)
        await shim.write(b"err", "stderr")
        shim.vanish()
        assert await io_.wait_drained()  # although nobody has read
        assert b"".join([chunk async for chunk in io_.stdout]) == b"out" * 1000
        assert b"".join([chunk async for chunk in io_.stderr]) == b"err"
        assert await io_.wait_drained()


async def test_a_terminal_has_one_output(fifo_root, shim_for):
    async with (
        anyio.create_task_group() as tg,
        await stdio.pipes(stdin=True, terminal=True).create("job", fifo_root=fifo_root) as io_,
    ):
        assert io_.stderr is None
        assert io_.config.stderr == ""
        assert io_.config.terminal
        shim = shim_for(io_)
        shim.start(io_, tg)
        await shim.write(b"$ ")
        assert await io_.stdout.receive() == b"$ "


@pytest.mark.looptime
async def test_a_grandchild_that_keeps_its_output_open(fifo_root, shim_for):
    loop = asyncio.get_running_loop()
    async with (
        anyio.create_task_group() as tg,
        await stdio.capture().create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        shim.start(io_, tg)
        os.write(shim.write_ends["stdout"], b"parent ")
        shim.close_outputs("stderr")
        began = loop.time()
        assert not await io_.wait_drained(5)
        assert loop.time() - began == pytest.approx(5, abs=0.1)
        assert io_.captured.stdout == b"parent "
        os.write(shim.write_ends["stdout"], b"grandchild")
        shim.vanish()
        assert await io_.wait_drained(5)
        assert io_.captured.stdout == b"parent grandchild"


@pytest.mark.looptime
@pytest.mark.parametrize("creator", [stdio.pipes(), stdio.capture()])
async def test_a_grandchild_of_which_nothing_more_is_wanted(fifo_root, shim_for, creator):
    async with anyio.create_task_group() as tg:
        io_ = await creator.create("job", fifo_root=fifo_root)
        shim = shim_for(io_)
        shim.start(io_, tg)
        assert not await io_.wait_drained(0)
        assert not await io_.wait_drained(1)
        await io_.aclose()


@pytest.mark.looptime
async def test_a_reader_that_stops(fifo_root, shim_for):
    """The process waits, and so does its exit; what it wrote stays readable, and then it goes on."""
    async with anyio.create_task_group() as tg, await stdio.pipes().create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        fd = shim.write_ends["stdout"]
        os.set_blocking(fd, False)
        written = 0
        with pytest.raises(BlockingIOError):
            while True:
                written += os.write(fd, b"x" * 4096)
        assert not await io_.wait_drained(10)
        assert len(await io_.stdout.receive(4096)) == 4096
        written += os.write(fd, b"y" * 4096)
        shim.vanish()
        assert await io_.wait_drained(10)
        assert sum([len(chunk) async for chunk in io_.stdout]) == written - 4096


async def test_closing_a_pipe_says_that_its_output_is_not_wanted(fifo_root, shim_for):
    async with anyio.create_task_group() as tg, await stdio.pipes().create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        shim.close_outputs("stderr")
        await io_.stdout.aclose()
        assert await io_.wait_drained()


class Broken(ByteSendStream):
    async def send(self, item):
        raise anyio.BrokenResourceError

    async def aclose(self):
        raise AssertionError("streams of the user are theirs to close")


async def test_a_destination_that_fails_does_not_stop_the_process(fifo_root, shim_for):
    stderr = io.BytesIO()
    creator = stdio.streams(stdout=Broken(), stderr=stderr)
    async with anyio.create_task_group() as tg, await creator.create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        await shim.write(MEGABYTE * 3)
        await shim.write(b"fine", "stderr")
        shim.vanish()
        assert await io_.wait_drained()
        (failure,) = io_.failures
        assert isinstance(failure, anyio.BrokenResourceError)
    assert stderr.getvalue() == b"fine"


async def test_output_nobody_wants_is_read_all_the_same(fifo_root, shim_for):
    async with (
        anyio.create_task_group() as tg,
        await stdio.streams().create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        shim.start(io_, tg)
        await shim.write(MEGABYTE * 3, "stderr")
        shim.vanish()
        assert await io_.wait_drained()


@pytest.mark.parametrize(
    "creator",
    [
        stdio.null(),
        stdio.pipes(stdin=True),
        stdio.capture(stdin=b"x"),
        stdio.inherit(),
        stdio.streams(stdin=b"x"),
        stdio.log_file("/var/log/x"),
    ],
)
@pytest.mark.parametrize("far", ["created", "started copying", "shim came"])
async def test_a_start_that_fails_leaves_nothing(fifo_root, shim_for, creator, far):
    async with anyio.create_task_group() as tg:
        io_ = await creator.create("job", fifo_root=fifo_root)
        shim = shim_for(io_)
        if far != "created":
            io_.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        if far == "shim came":
            shim.open_outputs()
        await anyio.wait_all_tasks_blocked()
        assert await io_.wait_drained()  # there is nothing to wait for
        await io_.aclose()
        await io_.aclose()
        assert shim.close_io_calls == 0


async def test_a_start_that_fails_has_not_eaten_the_input(fifo_root, shim_for):
    read_end, write_end = os.pipe()
    os.write(write_end, b"precious")
    creator = Descriptors(stdin=read_end, stdout=write_end, stderr=write_end)
    async with anyio.create_task_group() as tg, await creator.create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        io_.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        await anyio.wait_all_tasks_blocked()
    assert os.read(read_end, 100) == b"precious"
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("data", [b"", b"input", MEGABYTE])
async def test_stdin_is_fed_and_ended(fifo_root, shim_for, data):
    creator = stdio.capture(stdin=data)
    async with anyio.create_task_group() as tg, await creator.create("cat", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        assert await shim.read_stdin_to_end() == data
        assert shim.close_io_calls == 1
        shim.vanish()
        assert await io_.wait_drained()
    assert io_.failures == ()


async def test_a_process_that_does_not_read_its_stdin(fifo_root, shim_for):
    creator = stdio.capture(stdin=MEGABYTE)
    async with anyio.create_task_group() as tg, await creator.create("true", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        await anyio.wait_all_tasks_blocked()
        shim.close_outputs()
        assert await io_.wait_drained()
    assert io_.failures == ()
    assert shim.close_io_calls == 0


class BreaksHalfWay(ByteReceiveStream):
    def __init__(self):
        self.parts = [b"half"]

    async def receive(self, max_bytes=65536):
        if not self.parts:
            raise anyio.BrokenResourceError
        return self.parts.pop()

    async def aclose(self):
        raise AssertionError("streams of the user are theirs to close")


async def test_a_sender_is_woken_by_the_exit(fifo_root, shim_for):
    """Shims keep their side open until Delete: a full pipe stays full when the process has gone."""

    async def send(stdin):
        with pytest.raises(anyio.BrokenResourceError):
            await stdin.send(MEGABYTE)

    async with (
        anyio.create_task_group() as tg,
        await stdio.pipes(stdin=True).create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        shim.start(io_, tg)
        tg.start_soon(send, io_.stdin)
        await anyio.wait_all_tasks_blocked()
        io_.exited()
        io_.exited()


async def test_output_of_a_process_whose_start_was_never_confirmed(fifo_root, shim_for):
    async with (
        anyio.create_task_group() as tg,
        await stdio.capture().create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        io_.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        shim.open_outputs()
        await shim.write(b"it ran")
        shim.vanish()
        io_.exited()
        assert await io_.wait_drained()
        assert io_.captured.stdout == b"it ran"


async def test_a_source_that_breaks_ends_the_stdin(fifo_root, shim_for):
    creator = stdio.streams(stdin=BreaksHalfWay())
    async with anyio.create_task_group() as tg, await creator.create("cat", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        assert await shim.read_stdin_to_end() == b"half"
        shim.close_outputs()
        assert await io_.wait_drained()
        assert [type(failure) for failure in io_.failures] == [anyio.BrokenResourceError]


async def test_streams_of_objects(fifo_root, shim_for):
    """The halves of a memory object stream of bytes are byte streams in anyio's sense."""
    send_in, receive_in = anyio.create_memory_object_stream[bytes](5)
    send_out, receive_out = anyio.create_memory_object_stream[bytes](5)
    creator = stdio.streams(stdin=receive_in, stdout=send_out)
    async with anyio.create_task_group() as tg, await creator.create("cat", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        await send_in.send(b"in")
        send_in.close()
        assert await shim.read_stdin_to_end() == b"in"
        await shim.write(b"out")
        shim.close_outputs()
        assert await io_.wait_drained()
    assert receive_out.receive_nowait() == b"out"
    for stream in (receive_in, send_out, receive_out):
        stream.close()


async def test_a_daemon_that_cannot_be_told_does_not_break_the_client(fifo_root, shim_for):
    async def unavailable():
        raise Unavailable("restarting")

    creator = stdio.capture(stdin=b"x")
    async with anyio.create_task_group() as tg, await creator.create("cat", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.close_io = unavailable
        shim.start(io_, tg)
        assert await shim.read_stdin() == b"x"
        shim.close_outputs()
        assert await io_.wait_drained()
        await anyio.wait_all_tasks_blocked()
        assert [type(failure) for failure in io_.failures] == [Unavailable]


async def test_inherited_descriptors(fifo_root, shim_for):
    pipes = [os.pipe() for _ in range(3)]
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
    creator = Descriptors(stdin=in_read, stdout=out_write, stderr=err_write)
    async with anyio.create_task_group() as tg, await creator.create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        os.write(in_write, b"typed")
        assert await shim.read_stdin() == b"typed"
        await shim.write(b"out")
        await shim.write(b"err", "stderr")
        shim.close_outputs()
        assert await io_.wait_drained()
        assert (os.read(out_read, 100), os.read(err_read, 100)) == (b"out", b"err")
    for fd in sum(pipes, ()):
        assert os.get_blocking(fd)
        os.close(fd)


@pytest.mark.parametrize("append", [True, False])
async def test_both_outputs_to_one_file(tmp_path, fifo_root, shim_for, append):
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    creator = stdio.files(stdout=path, stderr=path, append=append)
    async with anyio.create_task_group() as tg, await creator.create("job", fifo_root=fifo_root) as io_:
        shim = shim_for(io_)
        shim.start(io_, tg)
        for _ in range(1000):
            await shim.write(b"out\n")
            await shim.write(b"err\n", "stderr")
        shim.vanish()
        assert await io_.wait_drained()
    lines = path.read_bytes().split(b"\n")
    assert sorted(lines) == [b""] + [b"err"] * 1000 + [b"old"] * append + [b"out"] * 1000


async def test_a_client_that_closes_stops_copying_and_lets_the_io_be_closed(fifo_root, shim_for):
    creator = stdio.capture(stdin=b"x")
    io_ = await creator.create("job", fifo_root=fifo_root)
    shim = shim_for(io_)
    async with anyio.create_task_group() as client:
        shim.start(io_, client)
        await anyio.wait_all_tasks_blocked()
        client.cancel_scope.cancel()
    assert not await io_.wait_drained()  # returns, although the process still runs
    await io_.aclose()


async def test_closing_finishes_when_cancelled(fifo_root, shim_for):
    io_ = await stdio.capture().create("job", fifo_root=fifo_root)
    shim = shim_for(io_)
    async with anyio.create_task_group() as tg:
        shim.start(io_, tg)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await io_.aclose()


async def test_wrong_order_is_refused(fifo_root, shim_for):
    async with (
        anyio.create_task_group() as tg,
        await stdio.capture().create("job", fifo_root=fifo_root) as io_,
    ):
        shim = shim_for(io_)
        with pytest.raises(FailedPrecondition, match="not started"):
            io_.started()
        shim.start(io_, tg)
        with pytest.raises(FailedPrecondition, match="only once"):
            shim.start(io_, tg)


async def test_a_client_that_is_closed_already(fifo_root, shim_for):
    async with anyio.create_task_group() as closed:
        pass
    io_ = await stdio.capture().create("job", fifo_root=fifo_root)
    with pytest.raises(RuntimeError):
        shim_for(io_).start(io_, closed)
    await io_.aclose()


async def test_attach_takes_over_where_a_client_left(fifo_root, shim_for):
    first = await stdio.pipes(stdin=True).create("job", fifo_root=fifo_root)
    async with anyio.create_task_group() as tg:
        shim = shim_for(first)
        shim.start(first, tg)
        await shim.write(b"to the first")
        assert await first.stdout.receive() == b"to the first"
        await first.aclose(keep_fifos=True)
        await shim.write(b"in between")  # the shim's own read end keeps it
    async with anyio.create_task_group() as tg:
        creator = stdio.capture(stdin=b"hello")
        second = await creator.attach(first.config)
        assert second.config == first.config
        second.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        second.started()
        assert await shim.read_stdin_to_end() == b"hello"
        await shim.write(b" and after")
        shim.vanish()
        assert await second.wait_drained()
        assert second.captured.stdout == b"in between and after"
        await second.aclose()


@pytest.mark.parametrize("creator", [stdio.pipes(), stdio.capture()])
async def test_attach_to_a_process_whose_shim_has_gone(fifo_root, shim_for, creator):
    first = await stdio.pipes().create("job", fifo_root=fifo_root)
    await first.aclose(keep_fifos=True)
    async with anyio.create_task_group() as tg, await creator.attach(first.config) as io_:
        shim = shim_for(io_)
        io_.start(tg, close_stdin=shim.close_io, resize=shim.resize)
        io_.started()
        await anyio.wait_all_tasks_blocked()
        assert await io_.wait_drained()
