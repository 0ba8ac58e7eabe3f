"""``containerd-aio export``: images to an archive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.cli.settings import Settings


@click.command("export", short_help="Write images to an archive.")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "zstd"]),
    default="none",
    show_default=True,
    help="How the archive is packed.",
)
@click.option("--platform", multiple=True, metavar="PLATFORM", help="Only for these; may be repeated.")
@click.option("--all-platforms", is_flag=True, help="For all platforms.")
@click.option("--skip-manifest-json", is_flag=True, help="Leave out what Docker before 25 needs.")
@click.option("--skip-missing", is_flag=True, help="Leave out content that is not there.")
@click.option("--skip-non-distributable", is_flag=True, help="Leave out layers that must not be passed on.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def command(settings: Settings, /, *, file: str, images: Sequence[str], **options: Any) -> int:
    """Write images to FILE, an archive in the OCI layout that Docker reads, too; - is stdout."""
    return settings.run(_export, settings, file, images, options)


async def _export(settings: Settings, file: str, images: Sequence[str], options: dict[str, Any]) -> int:
    from containerd_aio.cli.transfer_display import TransferDisplay

    async with settings.client() as client:
        with TransferDisplay(quiet=options["quiet"]) as display:
            await client.export_archive(
                sys.stdout.buffer if file == "-" else file,
                *images,
                platform=options["platform"] or None,
                all_platforms=options["all_platforms"],
                docker_manifest=not options["skip_manifest_json"],
                skip_missing=options["skip_missing"],
                skip_non_distributable=options["skip_non_distributable"],
                compression=options["compression"],
                progress=display,
            )
    return 0
