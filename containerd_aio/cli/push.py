"""``containerd-aio push``: images to registries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from containerd_aio.cli.registry_options import credentials_of, registry_options, via_option

if TYPE_CHECKING:
    from containerd_aio.cli.settings import Settings


@click.command("push", short_help="Push an image to a registry.")
@registry_options
@via_option("client")
@click.argument("name")
@click.argument("image", required=False)
@click.pass_obj
def command(settings: Settings, /, *, user: str | None, **options: Any) -> int:
    """Push an image to its registry as NAME: the image of that name, or IMAGE.

    With --platform only the variant for it is pushed; without, all of it, which needs all of it to be here. Name and digest
    go to stdout, progress to stderr.
    """
    return settings.run(_push, settings, credentials_of(user), options)


async def _push(settings: Settings, credentials: Any, options: dict[str, Any]) -> int:
    from containerd_aio.cli.transfer_display import TransferDisplay

    async with settings.client() as client:
        image = None if options["image"] is None else await client.image(options["image"])
        with TransferDisplay(quiet=options["quiet"]) as display:
            target = await client.push(
                options["name"],
                image,
                platform=options["platform"],
                keychain=credentials,
                plain_http=options["plain_http"],
                hosts_dir=options["hosts_dir"],
                via=options["via"],
                progress=display,
            )
    click.echo(f"{options['name']} {target.digest}")
    return 0
