"""What becomes of each container of the demo. A fate returns what `wait` said, beside what really happened."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio import oci
from containerd_aio.cli.demo.truth import INSIDE, has_swap, oom_counter, oom_kills

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from containerd_aio.cli.demo.display import Display
    from containerd_aio.cli.demo.truth import Notes
    from containerd_aio.client import Client
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.image import Image
    from containerd_aio.task import Task

_SIGKILLED = 128 + 9
_MEMORY_LIMIT = 20 << 20
_STOOD_STILL = 0.3
# Waits for a note without using up the machine.
_UNTIL = "while [ ! -e {note} ]; do usleep 20000; done; "


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        process: Which process.
        fate: What was to become of it.
        status: What `wait` returned.
        truth: What really happened, and who says so.
        good: Whether `wait` told the truth: the right code, or that it can't be known.
    """

    process: str
    fate: str
    status: ExitStatus
    truth: str
    good: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """What all fates have in common.

    Attributes:
        client: The client.
        image: The image that all containers are made of.
        notes: Where containers note what they do.
        display: Where we say what we do.
    """

    client: Client
    image: Image
    notes: Notes
    display: Display

    @asynccontextmanager
    async def run(self, name: str, script: str, *, memory_limit: int | None = None) -> AsyncIterator[Task]:
        """Run a shell script in a container that is deleted at the end of the block."""
        mount: oci.Mount = {
            "destination": INSIDE,
            "type": "bind",
            "source": self.notes.folder,
            "options": ["rbind", "rw"],
        }
        opts = [oci.with_mounts([mount]), oci.with_process_cwd(INSIDE)]
        if memory_limit is not None:
            opts.append(oci.with_memory_limit(memory_limit))
        if memory_limit is not None and has_swap():
            opts.append(oci.with_memory_swap(memory_limit))  # of both together: none of it is swap
        container = await self.client.new_container(
            name, image=self.image, args=["sh", "-c", script], spec_opts=opts
        )
        async with container, await container.new_task() as task:
            await task.start()
            yield task


def _exited(code: int, note: str) -> str:
    """Return the script's end: note the code, and exit with it."""
    return f"echo {code} > {note}; exit {code}"


def judge(process: str, fate: str, status: ExitStatus, noted: str) -> Row:
    """Return the row of a process that noted its own exit code: good is the truth, and an unknown that is said so."""
    good = noted.isdigit() and (status.code == int(noted) if not status.unknown else status.code == 255)
    return Row(process, fate, status, f"noted: exit {noted}" if noted else "noted no exit", good)


async def exits(stage: Stage, name: str, code: int) -> list[Row]:
    """It ends by itself."""
    async with stage.run(name, _exited(code, name)) as task:
        status = await task.wait()
    return [judge(name, f"exit {code}", status, stage.notes.read(name))]


async def killed(stage: Stage, name: str) -> list[Row]:
    """It would sleep for ever, and is killed."""
    script = f"echo alive > {name}; sleep 1000; echo awake > {name}"
    async with stage.run(name, script) as task:
        await stage.notes.wait(name)
        stage.display.act(f"SIGKILL to {name}")
        await task.kill("SIGKILL")
        status = await task.wait()
    noted = stage.notes.read(name)
    good = status.code == _SIGKILLED and not status.oom_killed and not status.unknown and noted == "alive"
    return [Row(name, "killed by us", status, f"SIGKILL sent; noted: {noted}", good)]


async def out_of_memory(stage: Stage, name: str) -> list[Row]:
    """It doubles a string until the kernel kills it."""
    script = (
        f"{_UNTIL.format(note=f'{name}.go')} s=x; "
        f'while :; do echo "${{#s}}" > {name}; s=$s$s; done; echo survived > {name}'
    )
    async with stage.run(name, script, memory_limit=_MEMORY_LIMIT) as task:
        counter = oom_counter(task.pid) if task.pid else None
        stage.notes.write(f"{name}.go")
        status = await task.wait()
        kills = oom_kills(counter) if counter is not None else None
    noted = stage.notes.read(name)
    reached = f"{int(noted) >> 20} MiB" if noted.isdigit() else noted
    truth = f"noted: {reached} of {_MEMORY_LIMIT >> 20} MiB used"
    if kills is not None:
        truth = f"kernel counted: {kills} OOM kill"
    good = status.code == _SIGKILLED and status.oom_killed and kills != 0 and noted.isdigit()
    return [Row(name, f"wants more than {_MEMORY_LIMIT >> 20} MiB", status, truth, good)]


async def paused(stage: Stage, name: str) -> list[Row]:
    """It counts, is frozen for a while, goes on, and ends by itself."""
    import anyio

    script = (
        f"i=0; while [ ! -e {name}.go ]; do i=$((i+1)); echo $i > {name}.new; mv {name}.new {name}; usleep 10000; done; "
        + _exited(4, f"{name}.exit")
    )
    async with stage.run(name, script) as task:
        await stage.notes.wait(name)
        stage.display.act(f"pause {name}")
        await task.pause()
        before = int(stage.notes.read(name))
        await anyio.sleep(_STOOD_STILL)
        after = int(stage.notes.read(name))
        stage.display.act(f"resume {name}")
        await task.resume()
        await stage.notes.wait(name, lambda text: int(text) > after)
        stage.notes.write(f"{name}.go")
        status = await task.wait()
    noted = stage.notes.read(f"{name}.exit")
    row = judge(name, "paused, resumed, exit 4", status, noted)
    still = "stood still" if before == after else "did NOT stand still"
    return [Row(name, row.fate, status, f"{row.truth}; {still}", row.good and before == after)]


async def exec_into(stage: Stage, name: str) -> list[Row]:
    """A second process runs in it and ends; then it is asked to end, and does so in its own way."""
    script = f"trap '{_exited(0, name)}' TERM; echo up > {name}.up; while :; do usleep 20000; done"
    async with stage.run(name, script) as task:
        await stage.notes.wait(f"{name}.up")
        stage.display.act(f"exec into {name}: sh -c 'exit 9'")
        async with await task.exec("second", ["sh", "-c", _exited(9, f"{name}.second")]) as second:
            await second.start()
            its_status = await second.wait()
        stage.display.act(f"SIGTERM to {name}, which handles it")
        await task.kill("SIGTERM")
        status = await task.wait()
    return [
        judge(f"{name}/second", "exec'd, exit 9", its_status, stage.notes.read(f"{name}.second")),
        judge(name, "SIGTERM, handled: exit 0", status, stage.notes.read(name)),
    ]


@asynccontextmanager
async def waits_for(stage: Stage, name: str, note: str, code: int) -> AsyncIterator[Task]:
    """Yield a running task that ends with `code` when somebody makes the note `note`."""
    async with stage.run(name, _UNTIL.format(note=note) + _exited(code, name)) as task:
        yield task


def after_restart(stage: Stage, name: str, fate: str, status: ExitStatus) -> Row:
    """Return the row of a process that `waits_for` has run."""
    return judge(name, fate, status, stage.notes.read(name))
