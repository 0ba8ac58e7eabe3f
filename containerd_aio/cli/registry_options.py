"""The options of commands that speak to a registry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from containerd_aio.distribution.keychain import Credentials

_F = TypeVar("_F", bound=Callable[..., Any])


_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Platform. Default: this machine's."),
    click.option(
        "-u",
        "--user",
        metavar="NAME[:PASSWORD]",
        help="User at the registry; without a password, it is asked for, or read from stdin. "
        "Default: what docker login and podman login have stored.",
    ),
    click.option("--plain-http", is_flag=True, help="Speak to the registry without TLS."),
    click.option(
        "--hosts-dir",
        metavar="DIRECTORY",
        type=click.Path(exists=True, file_okay=False),
        help="Directory with a hosts.toml for each registry. Default: /etc/containerd/certs.d.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
]


def via_option(default: str) -> Callable[[_F], _F]:
    """Return what adds the option ``--via``."""
    return click.option(
        "--via",
        type=click.Choice(["auto", "client", "daemon"]),
        default=default,
        show_default=True,
        help="Who moves the bytes: this program, or containerd with its own settings for registries.",
    )


def registry_options(function: _F) -> _F:
    """Add the options to a command; `credentials_of` reads the user's."""
    for option in _OPTIONS[::-1]:  # the last decorator applied is shown first
        function = option(function)
    return function


def credentials_of(user: str | None) -> Credentials | None:
    """Return the credentials that were given, None if none were."""
    from containerd_aio.distribution.keychain import Credentials

    if user is None:
        return None
    name, colon, password = user.partition(":")
    if not colon:
        if sys.stdin.isatty():
            password = click.prompt("Password", hide_input=True, err=True)
        else:
            password = sys.stdin.readline().rstrip("\n")
    return Credentials(name, password, source="--user")
