"""``containerd-aio images``: what the image store has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.cli.settings import Settings
    from containerd_aio.image import Image


@click.group("images", short_help="List, name, check, convert and delete images.")
def command() -> None:
    """List, name, check, convert and delete images."""


@command.command("ls")
@click.argument("filters", nargs=-1, metavar="[FILTER...]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each line.")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@click.pass_obj
def ls(settings: Settings, *, filters: Sequence[str], as_json: bool, quiet: bool) -> int:
    """List images: name, digest, size for this machine, and platforms."""
    return settings.run(_ls, settings, filters, as_json, quiet)


async def _ls(settings: Settings, filters: Sequence[str], as_json: bool, quiet: bool) -> int:
    async with settings.client() as client:
        for image in await client.images(*filters):
            if quiet:
                click.echo(image.name)
                continue
            row = await _row(image)
            click.echo(json.dumps(row) if as_json else _line(row))
    return 0


async def _row(image: Image) -> dict[str, Any]:
    from containerd_aio.errors import ContainerdError

    row: dict[str, Any] = {
        "name": image.name,
        "media_type": image.target.media_type,
        "digest": image.target.digest,
        "size": None,
        "platforms": [],
        "labels": dict(image.labels),
    }
    try:
        row["platforms"] = [str(platform) for platform in await image.platforms()]
        row["size"] = await image.size()
    except ContainerdError:
        pass  # its content is not here, or not for this machine: the record is all there is
    return row


def _line(row: dict[str, Any]) -> str:
    from containerd_aio.cli.transfer_display import human_size

    size = "-" if row["size"] is None else human_size(row["size"])
    return f"{row['name']} {row['digest']} {size} {','.join(row['platforms']) or '-'}"


@command.command("inspect")
@click.argument("image")
@click.pass_obj
def inspect(settings: Settings, *, image: str) -> int:
    """Print record, manifest and config of an image as JSON."""
    return settings.run(_inspect, settings, image)


async def _inspect(settings: Settings, name: str) -> int:
    async with settings.client() as client:
        image = await client.image(name)
        check = await image.check()
        manifest = await image.manifest()
        value = {
            **await _row(image),
            "manifest": manifest.document,
            "config": await image.config(),
            "missing": [descriptor.digest for descriptor in check.missing],
            "unpacked": await image.is_unpacked(),
        }
        click.echo(json.dumps(value, indent=2))
    return 0


@command.command("tag")
@click.argument("image")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="Take names away from other images.")
@click.pass_obj
def tag(settings: Settings, *, image: str, names: Sequence[str], force: bool) -> int:
    """Give an image further names."""
    return settings.run(_tag, settings, image, names, force)


async def _tag(settings: Settings, name: str, names: Sequence[str], force: bool) -> int:
    async with settings.client() as client:
        image = await client.image(name)
        for new in names:
            click.echo((await image.tag(new, force=force)).name)
    return 0


@command.command("label")
@click.argument("image")
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.pass_obj
def label(settings: Settings, *, image: str, labels: Sequence[str]) -> int:
    """Set labels of an image; KEY= removes one."""
    pairs = dict(text.partition("=")[::2] for text in labels)
    return settings.run(_label, settings, image, pairs)


async def _label(settings: Settings, name: str, labels: dict[str, str]) -> int:
    async with settings.client() as client:
        image = await client.image(name)
        await image.update_labels(labels)
        click.echo(json.dumps(dict(image.labels), sort_keys=True))
    return 0


@command.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--sync", is_flag=True, help="Wait until content and snapshots are gone.")
@click.pass_obj
def rm(settings: Settings, *, names: Sequence[str], sync: bool) -> int:
    """Delete images; content and snapshots go when nothing else refers to them."""
    return settings.run(_rm, settings, names, sync)


async def _rm(settings: Settings, names: Sequence[str], sync: bool) -> int:
    async with settings.client() as client:
        for name in names:
            image = await client.image(name)
            await image.delete(sync=sync and name == names[-1])
            click.echo(name)
    return 0


@command.command("check")
@click.argument("names", nargs=-1, metavar="[IMAGE...]")
@click.pass_obj
def check(settings: Settings, *, names: Sequence[str]) -> int:
    """Say of each image what of its content is here, and whether it is unpacked. Exit code 1: something is missing."""
    return settings.run(_check, settings, names)


async def _check(settings: Settings, names: Sequence[str]) -> int:
    from containerd_aio.cli.transfer_display import human_size

    incomplete = False
    async with settings.client() as client:
        images = [await client.image(name) for name in names] if names else await client.images()
        for image in images:
            found = await image.check()
            incomplete |= not found.complete
            unpacked = (
                bool(found.present) and found.required[0] in found.present and await image.is_unpacked()
            )
            click.echo(
                f"{image.name} {'complete' if found.complete else 'incomplete'} "
                f"({len(found.present)}/{len(found.required)}) {human_size(found.present_size)}/{human_size(found.size)} "
                f"{'unpacked' if unpacked else 'packed'}"
            )
    return int(incomplete)


@command.command("usage")
@click.argument("image")
@click.pass_obj
def usage(settings: Settings, *, image: str) -> int:
    """Print how many bytes an image takes: its content, and with its snapshots."""
    return settings.run(_usage, settings, image)


async def _usage(settings: Settings, name: str) -> int:
    async with settings.client() as client:
        image = await client.image(name)
        content = await image.usage(manifest_limit=None)
        click.echo(f"{content} {await image.usage(manifest_limit=None, snapshots=True)}")
    return 0


@command.command("history")
@click.argument("image")
@click.pass_obj
def history(settings: Settings, *, image: str) -> int:
    """Print the steps by which an image was made, from the bottom up."""
    return settings.run(_history, settings, image)


async def _history(settings: Settings, name: str) -> int:
    async with settings.client() as client:
        for step in await (await client.image(name)).history():
            created = step.created.isoformat() if step.created else "-"
            layer = step.layer.digest if step.layer else "-"
            click.echo(f"{created} {layer} {step.created_by or step.comment}")
    return 0


@command.command("convert")
@click.argument("image")
@click.argument("name")
@click.option("--oci", is_flag=True, help="Turn Docker's media types into OCI's.")
@click.option("--compression", type=click.Choice(["none", "gzip", "zstd"]), help="Pack the layers so.")
@click.option("--platform", multiple=True, metavar="PLATFORM", help="Keep only these; may be repeated.")
@click.option("--all-platforms", is_flag=True, help="Keep all platforms.")
@click.pass_obj
def convert(settings: Settings, /, *, image: str, name: str, **options: Any) -> int:
    """Make IMAGE over and call the result NAME."""
    return settings.run(_convert, settings, image, name, options)


async def _convert(settings: Settings, image: str, name: str, options: dict[str, Any]) -> int:
    async with settings.client() as client:
        made = await client.convert_image(
            image,
            name,
            oci=options["oci"],
            compression=options["compression"],
            platform=options["platform"] or None,
            all_platforms=options["all_platforms"],
        )
        click.echo(f"{made.name} {made.target.digest}")
    return 0
