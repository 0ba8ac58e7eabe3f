"""docs/cli.md names every command and every option, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import click

from containerd_aio.cli.commands import cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def _commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def _options(command: click.Command) -> set[str]:
    own = {
        name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts
    }
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*map(_options, below))


def test_every_command_has_a_section() -> None:
    sections = set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) | {"version"}
    assert sections == set(_commands())


def test_every_option_is_named_and_exists() -> None:
    there_are = set().union(_options(cli), *map(_options, _commands().values())) - {"--help"}
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", PAGE)) | set(re.findall(r"`\w+ (--[a-z-]+)`", PAGE))
    assert named == there_are
