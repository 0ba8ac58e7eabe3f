"""The commands there are, and the options they share. A command's module is imported when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from containerd_aio.cli.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

# Command -> module that has it, under the command's name.
_MODULES = {
    "demo": "containerd_aio.cli.demo.command",
    "events": "containerd_aio.cli.events",
    "export": "containerd_aio.cli.export",
    "images": "containerd_aio.cli.images",
    "import": "containerd_aio.cli.import_archive",
    "pull": "containerd_aio.cli.pull",
    "push": "containerd_aio.cli.push",
    "run": "containerd_aio.cli.run",
    "version": "containerd_aio.cli.version",
}


class _Commands(click.Group):
    """Looks commands up by name and imports only the one that is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = _MODULES.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: Sequence[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; there are {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, [*args])


@click.command(
    cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "-a",
    "--address",
    envvar="CONTAINERD_ADDRESS",
    metavar="ADDRESS",
    help="containerd's socket: a path, unix://PATH, unix-abstract:NAME or tcp://HOST:PORT. "
    "Default: $CONTAINERD_ADDRESS, else /run/containerd/containerd.sock.",
)
@click.option(
    "-n",
    "--namespace",
    envvar="CONTAINERD_NAMESPACE",
    metavar="NAME",
    help="Namespace to work in. Default: $CONTAINERD_NAMESPACE, else 'default'; for events: all.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a call to containerd may take.",
)
@click.option("--debug", is_flag=True, help="Log what is done, and show tracebacks.")
@click.pass_context
def cli(
    context: click.Context, *, address: str | None, namespace: str | None, timeout: float, debug: bool
) -> None:
    """Run containers on containerd, and watch them, over restarts of the daemon too."""
    context.obj = Settings(address=address, namespace=namespace, timeout=timeout, debug=debug)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
