"""Run a command in a container, with a time limit, and print what became of it as one line of JSON.

python examples/run_job.py docker.io/library/busybox:latest sh -c 'echo hello; exit 3'
python examples/run_job.py --limit 2 docker.io/library/busybox:latest sleep 60

It ends with 0 when the command did, else with 1.
"""

import argparse
import asyncio
import json
import secrets

from containerd_aio import Client, DeadlineExceeded, ExitStatus, Task, stdio


async def wait_within(task: Task, seconds: float) -> tuple[ExitStatus, bool]:
    """Wait for the end; when it takes too long, bring it about: SIGTERM, and SIGKILL five seconds later."""
    try:
        return await task.wait(timeout=seconds), False
    except DeadlineExceeded:
        await task.kill("TERM")
    try:
        return await task.wait(timeout=5), True
    except DeadlineExceeded:
        await task.kill("KILL", all=True)
        return await task.wait(), True


async def run(image: str, command: list[str], limit: float) -> bool:
    name = f"job-{secrets.token_hex(4)}"
    async with Client() as client:
        container = await client.new_container(name, image=image, args=command, labels={"example": "run-job"})
        async with container, await container.new_task(io=stdio.capture(limit=1 << 20)) as task:
            await task.start()
            status, timed_out = await wait_within(task, limit)
            await task.delete()  # the output is complete after it
            output = task.captured
    assert output is not None  # because of stdio.capture
    report = {
        "id": name,
        "exit_code": None if status.unknown else status.code,
        "oom_killed": status.oom_killed,
        "timed_out": timed_out,
        "exited_at": status.exited_at and status.exited_at.isoformat(),
        "stdout": output.stdout.decode(errors="replace"),
        "stderr": output.stderr.decode(errors="replace"),
        "truncated": output.stdout_truncated or output.stderr_truncated,
    }
    print(json.dumps(report))
    return status.success


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a command in a container.")
    parser.add_argument("--limit", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    raise SystemExit(not asyncio.run(run(arguments.image, arguments.command, arguments.limit)))


if __name__ == "__main__":
    main()
