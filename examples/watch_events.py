"""Print events of containerd as JSON lines, for ever: also across restarts of containerd, which are told, too.

python examples/watch_events.py
python examples/watch_events.py --all 'topic=="/tasks/exit"' 'topic=="/tasks/oom"'

Ctrl-C ends it.
"""

import argparse
import asyncio
import json
import signal
from functools import partial
from typing import Any

import anyio

from containerd_aio import Client


def show(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def print_statuses(client: Client) -> None:
    async for status in client.status():
        show({"status": status.state, "since": status.since.isoformat(), "reason": status.reason})


async def print_events(client: Client, filters: list[str], *, everywhere: bool) -> None:
    async with client.events(*filters, all_namespaces=everywhere) as events:
        show({"watching": filters})
        async for event in events:  # events, and Gap or Lagged between them
            show(event.to_dict())


async def watch(filters: list[str], *, everywhere: bool) -> None:
    async with Client() as client, anyio.create_task_group() as group:
        group.start_soon(print_statuses, client)
        group.start_soon(partial(print_events, client, filters, everywhere=everywhere))
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                group.cancel_scope.cancel()
                break


def main() -> None:
    parser = argparse.ArgumentParser(description="Print events of containerd as JSON lines.")
    parser.add_argument("--all", action="store_true", help="events of all namespaces")
    parser.add_argument("filters", nargs="*", help="filters in containerd's language")
    arguments = parser.parse_args()
    asyncio.run(watch(arguments.filters, everywhere=arguments.all))


if __name__ == "__main__":
    main()
