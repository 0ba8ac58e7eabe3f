"""The command ``demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from containerd_aio.cli.settings import Settings


@click.command("demo", short_help="Show it all, on a containerd of its own.")
@click.option(
    "--containerd",
    "binary",
    type=click.Path(exists=True, dir_okay=False),
    help="The containerd to start; by default the one on PATH.",
)
@click.pass_obj
def command(settings: Settings, *, binary: str | None) -> int:
    """Show what the library does, on a private containerd that is gone afterwards.

    Containers with different fates run side by side: they succeed, fail, are killed, run out of memory, are paused and
    exec'd into. Their events are printed live. In the middle containerd is killed with SIGKILL and started again: one
    container lives through that, one dies meanwhile. The table at the end compares what wait() returned with what
    really happened. Exit code 0 means that all is as it should be.

    Needs root, overlayfs, containerd, runc and a static busybox.
    """
    from containerd_aio.cli.demo.display import Display
    from containerd_aio.cli.demo.requirements import check_requirements
    from containerd_aio.cli.demo.story import tell

    containerd = check_requirements(binary)
    # The daemon's log is part of the library's log, and it is about to be killed: no news.
    return settings.run(tell, containerd, Display(), log_level="critical")
