"""Run a command in a running container again and again, and kill the container when it has failed too often.

python examples/health_check.py web wget -q -O /dev/null http://localhost/
python examples/health_check.py --every 1 --limit 0.5 --failures 3 web test -e /tmp/alive

It ends with 0 when the container ended by itself, with 1 when it was killed.
"""

import argparse
import asyncio
import itertools
import os

import anyio

from containerd_aio import Client, DeadlineExceeded, FailedPrecondition, NotFound, Task, Unknown, stdio


async def check(task: Task, exec_id: str, command: list[str], limit: float) -> str | None:
    """Run the command once; return what is wrong, or None."""
    try:
        # The end of the block kills a command that takes too long, and frees its id.
        async with await task.exec(exec_id, command, io=stdio.capture(limit=4096)) as process:
            await process.start()
            try:
                status = await process.wait(timeout=limit)
            except DeadlineExceeded:
                return f"no answer within {limit:g} s"
            await process.delete()
            output = process.captured
    except (
        NotFound,
        FailedPrecondition,
        Unknown,
    ) as error:  # the container is ending, or has no such program
        return str(error)
    if status.success:
        return None
    assert output is not None  # because of stdio.capture
    return f"{status} {(output.stdout + output.stderr).decode(errors='replace').strip()}".strip()


async def watch(arguments: argparse.Namespace) -> bool:
    """Check until the container has ended; return whether that was our doing."""
    killed = False
    async with Client() as client:
        container = await client.container(arguments.container)
        task = await container.task()

        async def keep_checking() -> None:
            nonlocal killed
            failures = 0
            for n in itertools.count(1):
                problem = await check(task, f"health-{os.getpid()}-{n}", arguments.command, arguments.limit)
                failures = failures + 1 if problem else 0
                print(f"{n}: {problem or 'healthy'}", flush=True)
                if failures == arguments.failures:
                    killed = True
                    await task.kill("KILL", all=True)
                    return
                await anyio.sleep(arguments.every)

        async with anyio.create_task_group() as group:
            group.start_soon(keep_checking)
            status = await task.wait()
            group.cancel_scope.cancel()
    print(f"{arguments.container}: {status}{', killed as unhealthy' if killed else ''}")
    return killed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Check a running container, and kill it when it is unhealthy."
    )
    parser.add_argument(
        "--every", type=float, default=10.0, metavar="SECONDS", help="between checks; default: 10"
    )
    parser.add_argument(
        "--limit", type=float, default=5.0, metavar="SECONDS", help="for one check; default: 5"
    )
    parser.add_argument(
        "--failures", type=int, default=3, help="so many in a row are one too many; default: 3"
    )
    parser.add_argument("container")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    raise SystemExit(asyncio.run(watch(parser.parse_args())))
