"""Keep one container running: start it, find it again, start it anew when it ends.

python examples/supervisor.py web docker.io/library/busybox:latest sh -c 'date; sleep 10; exit 1'

The container outlives restarts of containerd and of this program. SIGTERM and Ctrl-C end the supervisor and leave the
container alone; a new supervisor finds it. The container's output goes to ./NAME.log, written by the shim.
"""

import argparse
import asyncio
import signal
from pathlib import Path

import anyio

from containerd_aio import Client, Container, NotFound, Task, Unavailable, stdio

LOGS = Path.cwd()
FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0


def say(text: str) -> None:
    print(text, flush=True)


async def find_or_create(client: Client, name: str, image: str, command: list[str]) -> Container:
    try:
        return await client.container(name)
    except NotFound:
        return await client.new_container(name, image=image, args=command)


async def find_or_start(container: Container) -> Task:
    """Return the container's task: the one that is there, else a new one."""
    try:
        task = await container.task()
    except NotFound:
        # The shim writes the log, so nothing of the output depends on this program.
        task = await container.new_task(io=stdio.log_file(LOGS / f"{container.id}.log"))
        await task.start()
        say(f"started, pid {task.pid}")
        return task
    if await task.status() == "created":  # a predecessor ended before it could start it
        await task.start()
    say(f"found, pid {task.pid}")
    return task


async def supervise(client: Client, name: str, image: str, command: list[str]) -> None:
    delay = FIRST_DELAY
    while True:
        try:
            task = await find_or_start(await find_or_create(client, name, image, command))
            began = anyio.current_time()
            status = await task.wait()  # across lost connections and restarts of containerd
            await task.delete()
        except Unavailable as error:
            say(f"containerd is away: {error}")
            await client.wait_ready()
            continue
        say(f"ended, {status}")
        delay = FIRST_DELAY if anyio.current_time() - began > LONGEST_DELAY else min(delay * 2, LONGEST_DELAY)
        await anyio.sleep(delay)


async def main(name: str, image: str, command: list[str]) -> None:
    async with Client() as client, anyio.create_task_group() as group:
        group.start_soon(supervise, client, name, image, command)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                say("leaving; the container is left alone")
                group.cancel_scope.cancel()
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep one container running.")
    parser.add_argument("name")
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.name, arguments.image, arguments.command))
