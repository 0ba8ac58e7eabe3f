"""What ``containerd-aio run`` is asked for: its options read and checked, and what its failures mean. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containerd_aio.oci import Mount, SpecOpt
    from containerd_aio.stdio import IOCreator

# Exit codes of a container that did not start, as Docker has them.
_FAILED, _CANNOT_INVOKE, _NOT_FOUND = 125, 126, 127

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOUNT_KEYS = {
    "type": "type",
    "src": "source",
    "source": "source",
    "dst": "destination",
    "destination": "destination",
    "target": "destination",
    "options": "options",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The command line of ``run``.

    Attributes:
        image: Name of the image.
        id: Id of the container.
        command: The command; that of the image if empty.
        remove: Delete the container at the end.
        detach: Return when it runs.
        tty: Give it a terminal: ours.
        interactive: Give it our stdin.
        env: Changes of its environment: ``NAME=value``, or ``NAME`` to remove it.
        mounts: Further mounts.
        cwd: Working directory.
        memory_limit: Bytes.
        labels: Labels of the container.
        log_uri: Where the shim writes the output.
    """

    image: str
    id: str
    command: Sequence[str] = ()
    remove: bool = False
    detach: bool = False
    tty: bool = False
    interactive: bool = False
    env: Sequence[str] = ()
    mounts: Sequence[Mount] = ()
    cwd: str | None = None
    memory_limit: int | None = None
    labels: Mapping[str, str] | None = None
    log_uri: str | None = None

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InvalidArgument: Two options exclude each other.
        """
        if self.detach and self.remove:
            raise InvalidArgument(
                "--rm and -d exclude each other: nobody would be there to remove the container"
            )
        if self.interactive and (self.detach or self.log_uri):
            other = "-d" if self.detach else "--log-uri"
            raise InvalidArgument(f"-i and {other} exclude each other: nobody would pass on what is typed")
        if self.tty and self.detach and not self.log_uri:
            raise InvalidArgument(
                "-t and -d exclude each other, unless --log-uri binary://... takes the output"
            )

    def io(self) -> IOCreator:
        """Return the standard streams.

        Raises:
            InvalidArgument: There is no terminal to use, or the log URI is not one.
        """
        from containerd_aio import stdio

        if self.log_uri:
            return stdio.log_uri(self.log_uri, terminal=self.tty)
        if self.detach:
            return stdio.null()
        if self.tty:
            if not (os.isatty(0) and os.isatty(1)):
                raise InvalidArgument("-t needs a terminal at stdin and stdout; for a pipe there is -i")
            return stdio.terminal()
        return stdio.inherit(stdin=self.interactive)

    def spec_opts(self) -> list[SpecOpt]:
        """Return the changes to the OCI spec, in the order of ``ctr run``.

        Raises:
            InvalidArgument: A value is not valid.
        """
        from containerd_aio import oci

        opts: list[SpecOpt] = []
        if self.env:
            opts.append(oci.with_env(self.env))
        if self.mounts:
            opts.append(oci.with_mounts(self.mounts))
        if self.cwd is not None:
            opts.append(oci.with_process_cwd(self.cwd))
        if self.tty:
            opts.append(oci.with_tty())
        if self.memory_limit is not None:
            opts.append(oci.with_memory_limit(self.memory_limit))
        return opts


def parse_size(text: str) -> int:
    """Return bytes: a whole number, with ``k``, ``m``, ``g`` or ``t`` (powers of 1024, as in ``20m``) if wanted.

    Raises:
        InvalidArgument: It is not such a size.
    """
    match = re.fullmatch(r"(\d+)([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise InvalidArgument(
            f"{text!r} is not a size: write bytes, or a number with k, m, g or t, such as 20m"
        )
    return int(match[1]) * _UNITS[match[2]]


def parse_label(text: str) -> tuple[str, str]:
    """Return name and value of ``NAME=value``.

    Raises:
        InvalidArgument: There is no name or no ``=``.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidArgument(f"{text!r} is not a label: write NAME=VALUE")
    return name, value


def parse_mount(text: str) -> Mount:
    """Read a mount as ctr writes it: ``type=bind,src=/data,dst=/data,options=rbind:ro``.

    ``type`` is ``bind`` if not given; a bind mount gets the option ``rbind`` if it has neither that nor ``bind``.

    Raises:
        InvalidArgument: A part is not known or missing.
    """
    fields: dict[str, str] = {"type": "bind"}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key not in _MOUNT_KEYS or not equals:
            raise InvalidArgument(
                f"mount {text!r}: {part!r} is not understood; write type=bind,src=/here,dst=/there,options=rbind:ro"
            )
        fields[_MOUNT_KEYS[key]] = value
    if not fields.get("destination"):
        raise InvalidArgument(f"mount {text!r} has no destination: add dst=/path")
    options = [option for option in fields.get("options", "").split(":") if option]
    if fields["type"] == "bind":
        if not fields.get("source"):
            raise InvalidArgument(f"bind mount {text!r} has no source: add src=/path")
        if not {"bind", "rbind"} & set(options):
            options.insert(0, "rbind")
    return cast("Mount", fields | {"source": fields.get("source", fields["type"]), "options": options})


def failure_code(error: str) -> int:
    """Return the exit code for a container that did not start, going by runc's words, as Docker does."""
    if "error mounting" in error:
        return _FAILED  # it is the source of a mount that does not exist
    if "executable file not found" in error or "no such file or directory" in error:
        return _NOT_FOUND
    if "permission denied" in error or "is a directory" in error or "exec format error" in error:
        return _CANNOT_INVOKE
    return _FAILED
