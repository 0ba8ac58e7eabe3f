"""``containerd-aio import``: images from archives, ready to run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.cli.settings import Settings


@click.command("import", short_help="Import images from archives.")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)
@click.option("--no-unpack", is_flag=True, help="Only store them: the first container will unpack.")
@click.option("--base-name", metavar="NAME", help="Repository, or full name, of images that have a mere tag.")
@click.option("--index-name", metavar="NAME", help="Name for the whole index of an archive, too.")
@click.option("--digests", metavar="NAME", help="Name every image NAME@DIGEST, too.")
@click.option("--skip-missing", is_flag=True, help="Take archives that lack some content.")
@click.option("--discard-layers", is_flag=True, help="Keep only what the layers unpack to.")
@click.option("--platform", multiple=True, metavar="PLATFORM", help="Only for these; may be repeated.")
@click.option("--all-platforms", is_flag=True, help="For all platforms.")
@click.option(
    "--snapshotter", metavar="NAME", help="Where to unpack. Default: the namespace's, else overlayfs."
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def command(settings: Settings, /, *, files: Sequence[str], **options: Any) -> int:
    """Import images from OCI or Docker archives (tar, plain, gzip or zstd; - is stdin), and unpack them.

    Names and digests go to stdout, progress to stderr.
    """
    return settings.run(_import, settings, files, options)


async def _import(settings: Settings, files: Sequence[str], options: dict[str, Any]) -> int:
    from containerd_aio.cli.transfer_display import TransferDisplay

    async with settings.client() as client:
        with TransferDisplay(quiet=options["quiet"]) as display:
            imported = [
                await client.import_archive(
                    sys.stdin.buffer if file == "-" else file,
                    name=options["base_name"],
                    index_name=options["index_name"],
                    digest_names=options["digests"] or "",
                    skip_missing=options["skip_missing"],
                    platform=options["platform"] or None,
                    all_platforms=options["all_platforms"],
                    unpack=not options["no_unpack"],
                    snapshotter=options["snapshotter"],
                    discard_layers=options["discard_layers"],
                    progress=display,
                )
                for file in files
            ]
    for image in (image for images in imported for image in images):
        click.echo(f"{image.name} {image.target.digest}")
    return 0
