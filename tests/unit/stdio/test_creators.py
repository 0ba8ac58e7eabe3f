"""What each way of wiring says to the daemon, and what it refuses before anything happens."""

import io
import os
import sys
from pathlib import Path

import anyio
import pytest

from containerd_aio import stdio
from containerd_aio.errors import (
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from containerd_aio.stdio import IOConfig
from containerd_aio.stdio.creators import Descriptors

pytestmark = pytest.mark.usefixtures("no_leak")

CREATORS = {
    "null": stdio.null(),
    "pipes": stdio.pipes(),
    "pipes with stdin": stdio.pipes(stdin=True),
    "pipes with terminal": stdio.pipes(stdin=True, terminal=True),
    "inherit": stdio.inherit(),
    "capture": stdio.capture(),
    "capture with stdin": stdio.capture(stdin=b""),
    "streams": stdio.streams(stdout=io.BytesIO()),
    "streams with terminal": stdio.streams(stdin=b"", stdout=io.BytesIO(), terminal=True),
    "log": stdio.log_file("/var/log/x.log"),
}


@pytest.mark.parametrize("name", CREATORS)
async def test_the_request_and_its_fifos(fifo_root, name):
    creator = CREATORS[name]
    async with await creator.create("job", fifo_root=fifo_root) as io_:
        config = io_.config
        fifos = bool(config.stdout) and name != "log"
        assert config.terminal == creator.terminal == ("terminal" in name)
        assert bool(config.stdin) == ("stdin" in name or "terminal" in name)
        # Shims refuse an empty stderr beside a stdout, unless there is a terminal.
        assert bool(config.stderr) == (bool(config.stdout) and not config.terminal)
        assert fifo_root.exists() == fifos
        assert (io_.stdin is not None) == (name.startswith("pipes with"))
        assert (io_.stdout is not None) == name.startswith("pipes")
        assert (io_.captured is not None) == name.startswith("capture")


async def test_one_creator_serves_many_processes(fifo_root):
    creator = stdio.capture(stdin=b"x")
    assert creator == stdio.capture(stdin=b"x")
    async with (
        await creator.create("a", fifo_root=fifo_root) as first,
        await creator.create("a", fifo_root=fifo_root) as second,
    ):
        assert first.config != second.config


async def test_log_uris(fifo_root):
    io_ = await stdio.log_uri("binary:///bin/log?a=b").create("job", fifo_root=fifo_root)
    assert io_.config == IOConfig(stdout="binary:///bin/log?a=b", stderr="binary:///bin/log?a=b")
    await io_.aclose()
    io_ = await stdio.log_binary("/bin/log", {"a": "b"}, terminal=True).create("job", fifo_root=fifo_root)
    assert io_.config == IOConfig(stdout="binary:///bin/log?a=b", terminal=True)
    await io_.aclose()


@pytest.mark.parametrize(
    "refused",
    [
        lambda: stdio.log_uri("/var/log/x"),
        lambda: stdio.log_file("x.log"),
        lambda: stdio.log_binary("log"),
        stdio.files,
        lambda: stdio.files(stdout="/no/such/directory/x"),
        lambda: stdio.capture(limit=-1),
        lambda: stdio.streams(stdin="text"),
        lambda: stdio.streams(stdout=object()),
        lambda: stdio.streams(stdout=sys.__stdout__),
        lambda: stdio.streams(stderr=io.StringIO()),
        lambda: stdio.streams(stderr=io.BytesIO(), terminal=True),
    ],
)
def test_what_can_be_judged_at_once_is_refused_at_once(refused):
    with pytest.raises(InvalidArgument):
        refused()


def test_no_terminal():
    with Path(os.devnull).open() as file, pytest.raises(InvalidArgument, match="not a terminal"):
        stdio.terminal(tty=file.fileno())


@pytest.mark.parametrize("name", [name for name in CREATORS if name not in ("null", "log")])
async def test_a_refused_id_leaves_nothing(fifo_root, name):
    with pytest.raises(InvalidArgument):
        await CREATORS[name].create("a/b", fifo_root=fifo_root)
    assert not fifo_root.exists()


@pytest.mark.parametrize("nth", range(1, 5))
async def test_running_out_of_descriptors_leaves_nothing(fifo_root, monkeypatch, nth):
    real, calls = os.open, []

    def limited(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            raise OSError(24, "Too many open files")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, "open", limited)
    with pytest.raises(FailedPrecondition, match="Too many open files"):
        await stdio.pipes(stdin=True).create("job", fifo_root=fifo_root)


async def test_a_file_that_cannot_be_opened(tmp_path, fifo_root):
    with pytest.raises(FailedPrecondition, match="directory"):
        await stdio.files(stdout=tmp_path, stderr=tmp_path / "err").create("job", fifo_root=fifo_root)
    os.mkfifo(tmp_path / "nobody-reads")
    with pytest.raises(FailedPrecondition):
        await stdio.files(stdout=tmp_path / "nobody-reads").create("job", fifo_root=fifo_root)


async def test_a_file_that_may_not_be_written(tmp_path, fifo_root, monkeypatch):
    real = os.open

    def refuse(path, *args, **kwargs):
        if path == tmp_path / "log":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionDenied, match="log"):
        await stdio.files(stdout=tmp_path / "log").create("job", fifo_root=fifo_root)


async def test_attach_opens_only_what_there_is(fifo_root):
    async with await stdio.pipes(stdin=True).attach(IOConfig()) as io_:
        assert (io_.stdin, io_.stdout, io_.stderr) == (None, None, None)
    async with await stdio.pipes().attach(IOConfig(stdout="file:///x", stderr="file:///x")) as io_:
        assert (io_.stdout, io_.stderr) == (None, None)
    async with await stdio.null().attach(IOConfig(stdout="/x")) as io_:
        assert io_.config.stdout == "/x"


async def test_attach_to_what_is_gone(tmp_path):
    with pytest.raises(NotFound):
        await stdio.capture().attach(IOConfig(stdout=str(tmp_path / "gone")))


async def test_our_terminal_is_for_a_process_with_one():
    master, slave = os.openpty()
    with pytest.raises(FailedPrecondition, match="no terminal"):
        await stdio.terminal(tty=slave, stdout=slave).attach(IOConfig())
    os.close(master)
    os.close(slave)


async def test_creation_is_cancelled_before_it_does_anything(fifo_root):
    for creator in CREATORS.values():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await creator.create("job", fifo_root=fifo_root)
        assert scope.cancelled_caught
    assert not fifo_root.exists()


async def test_a_descriptor_closed_meanwhile(fifo_root):
    creator = Descriptors(stdin=None, stdout=987_654, stderr=2)
    with pytest.raises(ContainerdError, match="not open"):
        await creator.create("job", fifo_root=fifo_root)
