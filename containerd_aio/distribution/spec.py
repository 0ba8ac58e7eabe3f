"""The image config as typed values (OCI image specification, "Image Configuration")."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio.services.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step by which an image was made.

    Attributes:
        created: When.
        created_by: The command, in the builder's words.
        author: Who.
        comment: What the builder said about it.
        empty_layer: The step changed no file, so it has no layer.
        layer: The layer it made; None for an empty one, and where the manifest has fewer layers.
    """

    created: datetime | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False
    layer: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image says of itself and of how it wants to be run.

    Attributes:
        platform: What it runs on.
        created: When it was made.
        author: Who made it.
        user: User, and group after a colon, of its process; empty for root.
        env: Environment as ``NAME=value``.
        entrypoint: Beginning of the command line.
        cmd: Rest of it, or all of it where there is no entry point; what a caller's arguments replace.
        working_dir: Working directory of its process.
        exposed_ports: Ports such as ``80/tcp``.
        volumes: Directories for data that outlives it.
        labels: Its labels.
        stop_signal: What ends its process in good order; empty for SIGTERM.
        diff_ids: Digests of the layers when they are not compressed, from the bottom up.
        history: How it was made, from the bottom up.
        raw: The config as JSON.
    """

    platform: Platform
    created: datetime | None
    author: str
    user: str
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    working_dir: str
    exposed_ports: tuple[str, ...]
    volumes: tuple[str, ...]
    labels: Mapping[str, str]
    stop_signal: str
    diff_ids: tuple[str, ...]
    history: tuple[HistoryEntry, ...]
    raw: Mapping[str, Any] = field(repr=False, compare=False)


def parse_spec(config: Mapping[str, Any], layers: tuple[Descriptor, ...], what: str) -> ImageSpec:
    """Return an image config as typed values.

    Args:
        config: The image config.
        layers: Layers of the manifest, from the bottom up.
        what: Names the image in errors.

    Raises:
        InvalidArgument: A field is not of the type that the specification gives it.
    """
    read = _Reader(config, what)
    run = _Reader(read.object("config"), what)
    rootfs = _Reader(read.object("rootfs"), what)
    return ImageSpec(
        platform=Platform.from_json(config),
        created=read.time("created"),
        author=read.text("author"),
        user=run.text("User"),
        env=run.texts("Env"),
        entrypoint=run.texts("Entrypoint"),
        cmd=run.texts("Cmd"),
        working_dir=run.text("WorkingDir"),
        exposed_ports=tuple(run.object("ExposedPorts")),
        volumes=tuple(run.object("Volumes")),
        labels={str(key): str(value) for key, value in run.object("Labels").items()},
        stop_signal=run.text("StopSignal"),
        diff_ids=rootfs.texts("diff_ids"),
        history=_history(read.objects("history"), layers, what),
        raw=config,
    )


def _history(
    steps: list[Mapping[str, Any]], layers: tuple[Descriptor, ...], what: str
) -> tuple[HistoryEntry, ...]:
    remaining = iter(layers)
    entries: list[HistoryEntry] = []
    for step in steps:
        read = _Reader(step, what)
        empty = bool(step.get("empty_layer"))
        entries.append(
            HistoryEntry(
                created=read.time("created"),
                created_by=read.text("created_by"),
                author=read.text("author"),
                comment=read.text("comment"),
                empty_layer=empty,
                layer=None if empty else next(remaining, None),
            )
        )
    return tuple(entries)


class _Reader:
    """Fields of a JSON object, each of the type that is asked for; absent and null are that type's nothing."""

    def __init__(self, value: Mapping[str, Any], what: str) -> None:
        self._value = value
        self._what = what

    def _get(self, key: str, kind: type, name: str) -> Any:
        value = self._value.get(key)
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise InvalidArgument(f"{self._what}: {key} in the image config is not {name}")
        return value

    def text(self, key: str) -> str:
        value: str = self._get(key, str, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key, list, "a list of strings")
        if not all(isinstance(item, str) for item in value):
            raise InvalidArgument(f"{self._what}: {key} in the image config is not a list of strings")
        return tuple(value)

    def object(self, key: str) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._get(key, dict, "an object")
        return value

    def objects(self, key: str) -> list[Mapping[str, Any]]:
        value: list[Mapping[str, Any]] = self._get(key, list, "a list of objects")
        if not all(isinstance(item, dict) for item in value):
            raise InvalidArgument(f"{self._what}: {key} in the image config is not a list of objects")
        return value

    def time(self, key: str) -> datetime | None:
        text = self.text(key)
        try:
            return datetime.fromisoformat(text) if text else None
        except ValueError:
            raise InvalidArgument(
                f"{self._what}: {key} in the image config is {text!r}, which is no time"
            ) from None
