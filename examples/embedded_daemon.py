"""Run jobs side by side on a containerd of our own, which is there for as long as this program runs.

python examples/embedded_daemon.py
python examples/embedded_daemon.py --jobs 20 --at-once 4

It needs root, containerd, runc and a static busybox; nothing of it is left afterwards.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path

import anyio
import structlog

from containerd_aio import Client, Daemon, ExitStatus, Image, stdio
from containerd_aio.testing.images import busybox_image


async def run_job(client: Client, image: Image, number: int) -> tuple[ExitStatus, str]:
    script = f"echo job {number} in $(hostname); exit {number % 3}"
    container = await client.new_container(f"job-{number}", image=image, args=["sh", "-c", script])
    async with container, await container.new_task(io=stdio.capture()) as task:
        await task.start()
        status = await task.wait()
        await task.delete()
        assert task.captured is not None  # because of stdio.capture
        return status, task.captured.stdout.decode().strip()


async def main(jobs: int, at_once: int) -> None:
    results: dict[int, tuple[ExitStatus, str]] = {}
    limiter = anyio.CapacityLimiter(at_once)

    async def one(number: int) -> None:
        async with limiter:
            results[number] = await run_job(client, image, number)

    with tempfile.TemporaryDirectory() as folder:
        archive = busybox_image(Path(folder) / "busybox.tar")
        async with Daemon() as daemon, Client(daemon.address) as client:
            print(f"containerd {daemon.version}, pid {daemon.pid}, at {daemon.address}")
            [image] = await client.import_archive(archive, unpack=True)
            async with anyio.create_task_group() as group:
                for number in range(jobs):
                    group.start_soon(one, number)
    for number, (status, output) in sorted(results.items()):
        print(f"{number:4}  {status!s:10}  {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run jobs on a containerd of our own.")
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--at-once", type=int, default=3)
    arguments = parser.parse_args()
    # containerd's log comes as structlog events: warnings are shown, and not among the results.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(main(arguments.jobs, arguments.at_once))
