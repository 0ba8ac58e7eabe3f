"""``containerd-aio run``: a container in the foreground, as if it were a program of this shell; or in the background."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from containerd_aio.cli.main import CommandError, complain
from containerd_aio.cli.run_request import (
    RunRequest,
    failure_code,
    parse_label,
    parse_mount,
    parse_size,
)
from containerd_aio.errors import AlreadyExists, ContainerdError, InvalidArgument, NotFound, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from containerd_aio.cli.run_signals import SignalForwarder
    from containerd_aio.cli.settings import Settings
    from containerd_aio.client import Client
    from containerd_aio.container import Container
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.task import Task


def _parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that reads an option, or each of several, and refuses it in click's way."""

    def callback(_: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return [parse(each) for each in value]
            return None if value is None else parse(value)
        except InvalidArgument as exc:
            raise click.BadParameter(str(exc), param=parameter) from exc

    return callback


@click.command(
    "run", short_help="Run a command in a new container.", context_settings={"allow_interspersed_args": False}
)
@click.option("--rm", "remove", is_flag=True, help="Delete the container when it has ended.")
@click.option("-d", "--detach", is_flag=True, help="Print id and pid when it runs, and leave it running.")
@click.option("-t", "--tty", is_flag=True, help="Give it this terminal: all keys go to it, Ctrl-C too.")
@click.option("-i", "--interactive", is_flag=True, help="Give it our stdin. Without, its stdin is empty.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set a variable; NAME alone removes it.")
@click.option(
    "--mount",
    "mounts",
    multiple=True,
    callback=_parsed(parse_mount),
    metavar="type=T,src=S,dst=D,options=O:O",
    help="Mount something; type=bind is the default.",
)
@click.option("--cwd", metavar="PATH", help="Working directory of the command.")
@click.option(
    "--memory-limit", callback=_parsed(parse_size), metavar="SIZE", help="Bytes, or such as 20m or 1g."
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_parsed(parse_label),
    metavar="NAME=VALUE",
    help="Label of the container.",
)
@click.option(
    "--log-uri",
    metavar="URI",
    help="Let the shim write the output: file:///path or binary:///path?key=value.",
)
@click.argument("image")
@click.argument("id")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND...]")
@click.pass_obj
def command(settings: Settings, /, *, labels: Sequence[tuple[str, str]], **options: Any) -> int:
    """Run COMMAND in a new container ID of IMAGE, and end as it ends.

    Output goes to our stdout and stderr; INT, TERM, HUP, QUIT, USR1 and USR2 are passed on to the command. The exit
    code is that of the command; 255 if nobody can tell it any more; 127 if the command does not exist, 126 if it can't
    be executed, 125 for any other failure of ours.

    A restart of containerd ends neither the container nor this.
    """
    request = RunRequest(labels=dict(labels), **options)
    return settings.run(_run, settings, request, own_signals=True)


async def _run(settings: Settings, request: RunRequest) -> int:
    import anyio

    from containerd_aio.cli.run_signals import SignalForwarder

    request.check()
    request.io()
    request.spec_opts()  # what is refused is refused before anything is done
    result = 0
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            await group.start(forwarder.run)
            async with settings.client() as client:
                run = _detached if request.detach else _attached
                result = await run(client, request, forwarder)
        group.cancel_scope.cancel()
    return result if forwarder.ended_by is None else 128 + forwarder.ended_by


async def _attached(client: Client, request: RunRequest, forwarder: SignalForwarder) -> int:
    import anyio

    async with AsyncExitStack() as undo:
        container, task = await _start(client, request, undo, forwarder)
        undo.pop_all()
    try:
        status = await task.wait()
    except anyio.get_cancelled_exc_class():
        # Only when signals don't reach it any more: it is left alone.
        complain(f"leaving container {container.id!r}, which may still be running")
        raise
    # Nobody is there to be signalled: from now on a signal ends the wait for output that nobody reads.
    forwarder.process = None
    try:
        await _clean_up(container, task, request, drain_timeout=math.inf)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await _clean_up(container, task, request, drain_timeout=0)
        raise
    return _report(status)


async def _clean_up(container: Container, task: Task, request: RunRequest, *, drain_timeout: float) -> None:
    """Delete what is to be deleted. A failure is told, and does not take the place of the exit code."""
    try:
        await task.delete(drain_timeout=drain_timeout)
        if request.remove:
            await container.delete()
    except NotFound:
        pass  # somebody else was faster
    except ContainerdError as exc:
        complain(f"container {container.id!r} is left behind: {exc}")
    finally:
        await task.aclose()


async def _detached(client: Client, request: RunRequest, _: SignalForwarder) -> int:
    async with AsyncExitStack() as undo:
        container, task = await _start(client, request, undo)
        undo.pop_all()
    click.echo(f"{container.id} {task.pid}")
    return 0


async def _start(
    client: Client, request: RunRequest, undo: AsyncExitStack, forwarder: SignalForwarder | None = None
) -> tuple[Container, Task]:
    """Make and start it. What has been made goes onto `undo`: nothing remains of what never ran."""
    try:
        image = await client.image(request.image)
    except NotFound as exc:
        raise NotFound(
            f"there is no image {request.image!r} in namespace {client.namespace!r}; "
            "`containerd-aio pull NAME` fetches one, `containerd-aio import FILE` imports one from an archive"
        ) from exc
    try:
        container = await client.new_container(
            request.id,
            image=image,
            args=request.command or None,
            spec_opts=request.spec_opts(),
            labels=request.labels,
        )
    except AlreadyExists as exc:
        raise AlreadyExists(
            f"there is a container, or the snapshot of one, named {request.id!r} in namespace {client.namespace!r} already"
        ) from exc
    await undo.enter_async_context(container)
    try:
        task = await undo.enter_async_context(await container.new_task(io=request.io()))
        if forwarder is not None:
            forwarder.process = task
        await task.start()
        if forwarder is not None:
            forwarder.started.set()
    except Unknown as exc:
        raise CommandError(str(exc), failure_code(exc.message)) from exc
    return container, task


def _report(status: ExitStatus) -> int:
    """Return the exit code, and say what it can't."""
    if status.unknown:
        complain("containerd has lost the exit code of the container; 255 stands for it")
    elif status.oom_killed and status.code == 128 + 9:
        complain("the kernel killed the container for lack of memory")
    return status.code
