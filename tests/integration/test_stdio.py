"""Standard streams on real containerd and runc: nothing lost, nothing stuck, whoever ends first."""

from __future__ import annotations

import os
import secrets
import termios
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client, Container, DeadlineExceeded, InvalidArgument, Unknown, oci, stdio
from tests.integration.fifo_support import fifos

IMAGE = "docker.io/library/busybox:latest"


async def new(client: Client, name: str, *args: str, **options: Any) -> Container:
    return await client.new_container(name, image=IMAGE, args=list(args), **options)


async def test_a_terminal_on_one_side_only_is_refused_with_the_cure(client: Client) -> None:
    async with await new(client, "plain", "sh") as c:
        with pytest.raises(InvalidArgument, match="with_tty"):
            await c.new_task(io=stdio.pipes(terminal=True))
    async with await new(client, "tty", "sh", spec_opts=[oci.with_tty()]) as c:
        with pytest.raises(InvalidArgument, match="terminal=True"):
            await c.new_task(io=stdio.pipes())


async def test_stdin_before_start(client: Client) -> None:
    for n in range(10):
        async with await new(client, f"pre{n}", "sh", "-c", "cat; echo done") as c:
            async with await c.new_task(io=stdio.pipes(stdin=True)) as t:
                await t.stdin.send(b"early ")
                await t.stdin.aclose()
                await t.start()
                assert (await t.wait(timeout=20)).code == 0
                assert b"".join([x async for x in t.stdout]) == b"early done\n"


async def test_stdin_eof_exec_and_init_many(client: Client) -> None:
    async with await new(client, "host", "sleep", "1000") as c, await c.new_task() as task:
        await task.start()
        for n in range(40):
            data = [b"", b"x", b"y" * 300_000][n % 3]
            async with await task.exec(f"e{n}", ["sh", "-c", "wc -c"], io=stdio.capture(stdin=data)) as p:
                await p.start()
                assert (await p.wait(timeout=20)).code == 0
                await p.delete()
                assert int(p.captured.stdout) == len(data)


async def test_capture_stdin_init(client: Client) -> None:
    for n in range(10):
        data = [b"", b"x", b"y" * 3_000_000][n % 3]
        async with (
            await new(client, f"i{n}", "wc", "-c") as c,
            await c.new_task(io=stdio.capture(stdin=data)) as t,
        ):
            await t.start()
            assert (await t.wait(timeout=20)).code == 0
            await t.delete()
            assert int(t.captured.stdout) == len(data)


async def test_process_ignores_stdin(client: Client) -> None:
    async with (
        await new(client, "ig", "true") as c,
        await c.new_task(io=stdio.capture(stdin=b"z" * 5_000_000)) as t,
    ):
        await t.start()
        await t.wait(timeout=20)
        await t.delete()


async def test_sender_woken_by_exit(client: Client) -> None:
    async with await new(client, "cl", "sh", "-c", "exec <&-; echo closed; sleep 1") as c:
        async with await c.new_task(io=stdio.pipes(stdin=True)) as t:
            await t.start()
            assert await t.stdout.receive() == b"closed\n"

            async def send() -> None:
                with pytest.raises(anyio.BrokenResourceError):
                    await t.stdin.send(b"x" * 5_000_000)

            with anyio.fail_after(20):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(send)
                    await t.wait(timeout=20)


async def test_grandchild(client: Client) -> None:
    async with await new(client, "gc", "sleep", "1000") as c, await c.new_task() as task:
        await task.start()
        async with await task.exec("e", ["sh", "-c", "(sleep 1000) & echo parent"], io=stdio.capture()) as p:
            await p.start()
            await p.wait(timeout=20)
            await p.delete(drain_timeout=0.5)
            assert p.captured.stdout == b"parent\n"


async def test_terminal(client: Client) -> None:
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (33, 101))
    before = termios.tcgetattr(slave)
    try:
        async with await new(client, "tty", "sh", spec_opts=[oci.with_tty()]) as c:
            async with await c.new_task(io=stdio.terminal(tty=slave, stdout=slave)) as t:
                await t.start()
                seen = b""

                async def until(what: bytes) -> None:
                    nonlocal seen
                    with anyio.fail_after(20):
                        while what not in seen:
                            await anyio.wait_readable(master)
                            seen += os.read(master, 1000)

                await until(b"# ")
                with anyio.fail_after(10):
                    while b"33 101" not in seen:
                        os.write(master, b"stty size\r")
                        seen = b""
                        await until(b"# ")
                os.write(master, b"exit 5\r")
                assert (await t.wait(timeout=20)).code == 5
                await t.delete()
                assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


async def test_exec_terminal_capture(client: Client) -> None:
    async with await new(client, "te", "sleep", "1000") as c, await c.new_task() as task:
        await task.start()
        async with await task.exec(
            "e", ["sh", "-c", "test -t 0 && echo tty; cat"], io=stdio.pipes(stdin=True, terminal=True)
        ) as p:
            await p.start()
            seen = b""
            with anyio.fail_after(10):
                while b"tty\r\n" not in seen:
                    seen += await p.stdout.receive()
                await p.stdin.send(b"hi\n\x04")
                async for chunk in p.stdout:
                    seen += chunk
            assert b"hi\r\nhi\r\n" in seen
            assert (await p.wait(timeout=20)).code == 0


@pytest.mark.shows("seed:containerd.IO.Stderr")
async def test_logs(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "l.log"
    async with (
        # It lives on: the shim closes the file for both streams when stdout ends, whatever stderr still has.
        await new(client, "lg", "sh", "-c", "echo out; echo err >&2; exec sleep 1000") as c,
        await c.new_task(io=stdio.log_file(log)) as t,
        stdio.follow(log) as followed,
    ):
        await t.start()
        seen = b""
        with anyio.fail_after(20):
            while len(seen) < len(b"out\nerr\n"):
                seen += await anext(followed)
        assert sorted(seen.split()) == [b"err", b"out"]


async def test_binary(client: Client, tmp_path: Path) -> None:
    prog = tmp_path / "logger"
    prog.write_text('#!/bin/sh\necho "$CONTAINER_ID $*" > "$0.out"\nexec 5>&-\ncat <&3 >> "$0.out"\n')
    prog.chmod(0o755)
    async with (
        await new(client, "bin", "sh", "-c", "echo out") as c,
        await c.new_task(io=stdio.log_binary(prog, {"k": "v"})) as t,
    ):
        await t.start()
        await t.wait(timeout=20)
        await t.delete()
    assert (tmp_path / "logger.out").read_text().splitlines()[0] == "bin k v"


@pytest.mark.shows(
    "seed:containerd.WithAttach",
    "seed:containerd.IOAttach",
    "seed:containerd.FIFOSet",
    "seed:containerd.IO.Stdin",
    "seed:containerd.IO.Stdout",
)
async def test_attach(client: Client) -> None:
    async with await new(client, "at", "sh", "-c", "while read l; do echo got $l; done") as c:
        t = await c.new_task(io=stdio.pipes(stdin=True))
        await t.start()
        await t.stdin.send(b"one\n")
        assert await t.stdout.receive() == b"got one\n"
        await t.aclose()
        async with await c.task(io=stdio.pipes(stdin=True)) as again:
            await again.stdin.send(b"two\n")
            assert await again.stdout.receive() == b"got two\n"
            await again.stdin.aclose()
            assert (await again.wait(timeout=20)).code == 0


async def test_leaving_a_paused_container_does_not_hang(client: Client) -> None:
    with anyio.fail_after(30):
        async with await new(client, "frozen", "sleep", "1000") as c, await c.new_task() as task:
            await task.start()
            await task.pause()
    assert await client.containers() == []


async def test_a_log_is_followed_to_its_last_byte(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "followed.log"
    script = "for n in $(seq 2000); do echo line $n; done"
    async with await new(client, "followed", "sh", "-c", script) as c:
        async with await c.new_task(io=stdio.log_file(path)) as t:

            async def end() -> None:
                await t.wait(timeout=20)
                await t.delete()

            async with stdio.follow(path, until=end) as log:
                await t.start()
                data = b"".join([chunk async for chunk in log])
    assert data.decode().splitlines() == [f"line {n}" for n in range(1, 2001)]


async def test_a_reader_that_stops_loses_nothing(client: Client) -> None:
    """The kernel stops the process when its pipe is full; it goes on with the reader."""
    script = "head -c 3000000 /dev/zero; echo end >&2"
    async with await new(client, "stopping", "sh", "-c", script) as c:
        async with await c.new_task(io=stdio.pipes()) as t:
            await t.start()
            total = len(await t.stdout.receive(1000))
            with pytest.raises(DeadlineExceeded):
                await t.wait(timeout=0.5)  # nobody reads
            async for chunk in t.stdout:
                total += len(chunk)
            assert (await t.wait(timeout=20)).code == 0
            assert total == 3_000_000


async def test_a_start_that_fails_leaves_no_fifos(client: Client) -> None:
    token = secrets.token_hex(4)
    async with await new(client, f"failing-{token}", "no-such-program") as c:
        with pytest.raises(Unknown, match="no-such-program"):
            await c.new_task(io=stdio.capture(stdin=b"never read"))
    async with await new(client, "host2", "sleep", "1000") as c, await c.new_task() as task:
        await task.start()
        exec_ = await task.exec(
            f"failing-{token}", ["no-such-program"], io=stdio.capture(stdin=b"never read")
        )
        assert len(fifos(token)) == 3
        with pytest.raises(Unknown, match="no-such-program"):
            await exec_.start()
    assert fifos(token) == []
