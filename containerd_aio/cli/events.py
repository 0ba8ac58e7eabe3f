"""``containerd-aio events``: what happens, as it happens, for as long as wanted."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from containerd_aio.cli.main import complain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ByteSendStream

    from containerd_aio.cli.settings import Settings
    from containerd_aio.client import Client
    from containerd_aio.events.event import Event, Gap, Lagged
    from containerd_aio.events.subscription import Subscription

# Room for events while whoever reads our output is slow; after that the oldest are dropped, and a line says so.
_BUFFER = 65536
# As many events are written at once at most.
_BATCH = 256


@click.command("events", short_help="Print events as they come.")
@click.argument("filters", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--wait", is_flag=True, help="If containerd can't be reached at the start, wait for it.")
@click.pass_obj
def command(settings: Settings, *, filters: Sequence[str], as_json: bool, wait: bool) -> int:
    """Print containerd's events as they come, of every namespace unless -n names one.

    FILTERS are in containerd's language, such as 'topic=="/tasks/exit"' or 'event.container_id==web'; an event that
    matches any of them is printed.

    A restart of containerd does not end it: it connects again, says how long it was without connection ("-- gap", or a
    JSON object with "gap"), and goes on with what it could work out of what happened meanwhile (origin "resync").
    """
    # It tells of lost connections itself, so the library's warnings about them would say it twice.
    return settings.run(_follow, settings, filters, as_json, wait, log_level="error")


async def _follow(settings: Settings, filters: Sequence[str], as_json: bool, wait: bool) -> int:
    import anyio

    from containerd_aio.stdio.descriptors import DescriptorSendStream

    out = DescriptorSendStream(1)
    try:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(settings.client(lazy=wait))
            subscription = client.events(*filters, buffer=_BUFFER, all_namespaces=settings.namespace is None)
            events = await _subscribe(stack, client, subscription, wait=wait)
            group = await stack.enter_async_context(anyio.create_task_group())
            if not as_json:
                group.start_soon(_tell_connection, client)
            await _print(events, out, as_json=as_json)
            group.cancel_scope.cancel()
    finally:
        out.close()
    return 0


async def _subscribe(
    stack: AsyncExitStack, client: Client, subscription: Subscription, *, wait: bool
) -> Subscription:
    """Enter the subscription, however long it takes if that is wanted."""
    from containerd_aio.errors import DeadlineExceeded, Unavailable

    told = False
    while True:
        try:
            return await stack.enter_async_context(subscription)
        except (Unavailable, DeadlineExceeded) as exc:
            if not wait:
                raise
            if not told:
                complain(f"{exc}; waiting for it")
                told = True
        await client.wait_ready()


async def _tell_connection(client: Client) -> None:
    """Say when containerd is lost and found."""
    lost = False
    async for status in client.status():
        if status.state == "disconnected" and not lost:
            complain("the connection to containerd is lost; trying to connect again")
            lost = True
        elif status.state == "connected" and lost:
            complain("connected to containerd again")
            lost = False


async def _print(events: Subscription, out: ByteSendStream, *, as_json: bool) -> None:
    import anyio

    from containerd_aio.cli.event_lines import json_line, line

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def encode(item: Event | Gap | Lagged) -> bytes:
        text = json_line(item) if as_json else line(item, colour=colour)
        return text.encode(errors="replace") + b"\n"

    async for item in events:
        lines = [encode(item)]
        while events.pending and len(lines) < _BATCH:
            lines.append(encode(await anext(events)))
        try:
            await out.send(b"".join(lines))
        except anyio.BrokenResourceError as exc:
            raise exc.__cause__ or exc from None
