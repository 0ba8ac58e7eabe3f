"""Throughput of a process's output through a FIFO: ours beside ``cat``.

    python benchmarks/stdio_copy.py [--size MiB] [--repeat N]

The writer is ``dd`` with the block sizes in which shims write (4 KiB and 32 KiB). Best of N. The first row is ``cat``
reading the same FIFO into /dev/null; ``cat | cat`` copies twice, as an output does that passes through a client.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from containerd_aio import stdio
from containerd_aio.stdio.creators import Descriptors

MIB = 1 << 20
Runner = Callable[[Path, int, int], Awaitable[float]]


@contextmanager
def writer(fifo: str, size: int, block: int) -> Iterator[None]:
    command = ["dd", "if=/dev/zero", f"of={fifo}", f"bs={block}", f"count={size // block}", "status=none"]
    process = subprocess.Popen(command)
    yield
    if process.wait() != 0:
        raise SystemExit("the writer failed")


async def ours(creator: stdio.IOCreator, root: Path, size: int, block: int) -> float:
    async with (
        anyio.create_task_group() as tg,
        await creator.create("bench", fifo_root=root) as io,
    ):
        io.start(tg, close_stdin=anyio.lowlevel.checkpoint, resize=no_resize)
        io.started()
        began = time.perf_counter()
        with writer(io.config.stdout, size, block):
            if io.stdout is not None:
                total = 0
                async for chunk in io.stdout:
                    total += len(chunk)
                assert total == size
            else:
                while not io._copies[0].complete:
                    await io._copies[0].ended.wait()
        return time.perf_counter() - began


async def no_resize(_width: int, _height: int) -> None: ...


def cat(command: str) -> Runner:
    async def run(root: Path, size: int, block: int) -> float:
        fifo = root / "fifo"
        os.mkfifo(fifo)
        began = time.perf_counter()
        with writer(str(fifo), size, block):
            await anyio.run_process(["sh", "-c", command, "sh", str(fifo)])
        fifo.unlink()
        return time.perf_counter() - began

    return run


def runner(creator: stdio.IOCreator) -> Runner:
    async def run(root: Path, size: int, block: int) -> float:
        return await ours(creator, root, size, block)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB to copy (1024)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the best counts (3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, Path(os.devnull).open("wb") as null:
        root = Path(directory)
        sink = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=null)
        assert sink.stdin is not None
        to_pipe = Descriptors(stdin=None, stdout=sink.stdin.fileno(), stderr=sink.stdin.fileno())
        rows: dict[str, Runner] = {
            "cat": cat('exec cat "$1" >/dev/null'),
            "cat | cat": cat('cat "$1" | cat >/dev/null'),
            "inherit, stdout is a pipe to cat": runner(to_pipe),
            "pipes, read by the caller": runner(stdio.pipes()),
            "capture with a limit": runner(stdio.capture(limit=MIB)),
            "cat to a regular file": cat('exec cat "$1" >"$1.log"'),
            "files, a regular file": runner(stdio.files(stdout=root / "log", append=False)),
        }
        print(f"{'MB/s, ' + str(options.size) + ' MiB':36}{'4 KiB writes':>14}{'32 KiB writes':>15}")
        for name, run in rows.items():
            speeds = []
            for block in (4096, 32768):
                size = options.size * MIB
                seconds = min(anyio.run(run, root, size, block) for _ in range(options.repeat))
                speeds.append(size / seconds / 1e6)
            print(f"{name:36}{speeds[0]:14.0f}{speeds[1]:15.0f}", flush=True)
        sink.stdin.close()
        sink.wait()


if __name__ == "__main__":
    main()
