"""``containerd-aio pull``: images from registries, ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from containerd_aio.cli.registry_options import credentials_of, registry_options, via_option

if TYPE_CHECKING:
    from containerd_aio.cli.settings import Settings


@click.command("pull", short_help="Pull an image from a registry.")
@registry_options
@click.option("--all-platforms", is_flag=True, help="Fetch it for all platforms, and unpack nothing.")
@click.option("--no-unpack", is_flag=True, help="Only store it: the first container will unpack.")
@click.option(
    "--snapshotter", metavar="NAME", help="Where to unpack. Default: the namespace's, else overlayfs."
)
@via_option("auto")
@click.argument("image")
@click.pass_obj
def command(settings: Settings, /, *, user: str | None, **options: Any) -> int:
    """Pull IMAGE from its registry and unpack it.

    `busybox` is docker.io/library/busybox:latest. Name and digest go to stdout, progress to stderr.
    """
    return settings.run(_pull, settings, credentials_of(user), options)


async def _pull(settings: Settings, credentials: Any, options: dict[str, Any]) -> int:
    from containerd_aio.cli.transfer_display import TransferDisplay
    from containerd_aio.errors import InvalidArgument

    common = {
        "platform": options["platform"],
        "keychain": credentials,
        "plain_http": options["plain_http"],
        "hosts_dir": options["hosts_dir"],
    }
    if options["all_platforms"] and options["platform"]:
        raise InvalidArgument("give --platform or --all-platforms, not both")
    async with settings.client() as client:
        with TransferDisplay(quiet=options["quiet"]) as display:
            if options["all_platforms"]:
                image = await client.fetch(options["image"], all_platforms=True, progress=display, **common)
            else:
                image = await client.pull(
                    options["image"],
                    unpack=not options["no_unpack"],
                    snapshotter=options["snapshotter"],
                    via=options["via"],
                    progress=display,
                    **common,
                )
    click.echo(f"{image.name} {image.target.digest}")
    return 0
