"""``containerd-aio version``: who we are, and whom we talk to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from containerd_aio._version import __version__

if TYPE_CHECKING:
    from containerd_aio.cli.settings import Settings


@click.command("version", short_help="Print the versions of both sides.")
@click.option("--client", "client_only", is_flag=True, help="Only ours: containerd is not asked.")
@click.pass_obj
def command(settings: Settings, *, client_only: bool) -> int:
    """Print the versions of this program and of containerd."""
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(f"Client:\n  Version:  {__version__}\n  Python:   {python}")
    return 0 if client_only else settings.run(_server, settings)


async def _server(settings: Settings) -> int:
    async with settings.client() as client:
        version = await client.version()
        info = await client.server_info()
        lines = ["", "Server:", f"  Version:  {version.version}", f"  Revision: {version.revision}"]
        lines += [f"  UUID:     {info.uuid}", f"  Address:  {client.address}"]
    click.echo("\n".join(lines))
    return 0
