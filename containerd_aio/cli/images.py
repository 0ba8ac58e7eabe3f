"""``containerd-aio import``: images from archives, ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.cli.settings import Settings


@click.command("import", short_help="Import images from archives.")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False)
)
@click.option("--no-unpack", is_flag=True, help="Only store them: the first container will unpack.")
@click.pass_obj
def command(settings: Settings, *, files: Sequence[str], no_unpack: bool) -> int:
    """Import images from OCI or Docker archives (tar, plain or gzip), and unpack them."""
    return settings.run(_import, settings, files, not no_unpack)


async def _import(settings: Settings, files: Sequence[str], unpack: bool) -> int:
    async with settings.client() as client:
        for file in files:
            for image in await client.import_archive(file, unpack=unpack):
                click.echo(f"{image.name} {image.target.digest}")
    return 0
