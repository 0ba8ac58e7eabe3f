"""A network: a list of CNI plugins, run one after the other, each with the result of the one before; in reverse for DEL.

What ADD answered is kept in files of libcni's format, so that CHECK and DEL work in another process, or with another
tool.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio

from containerd_aio._log import get_logger
from containerd_aio.cni.attachment import NAME, Attachment
from containerd_aio.cni.plugin import Command, find_program, run_plugin
from containerd_aio.cni.result import PortMapping, Result
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)

_log = get_logger(__name__)

DEFAULT_CONF_DIR = "/etc/cni/net.d"
DEFAULT_CACHE_DIR = "/var/lib/cni"
DEFAULT_PLUGIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network: a CNI configuration list, and where its plugins and its results are.

    Attributes:
        name: Name of the network.
        plugins: The configurations of its plugins, in the order of ADD.
        cni_version: Version of the specification that it is written for.
        disable_check: Whether the list forbids CHECK.
        plugin_dirs: Where the programs are; the first that has one wins.
        cache_dir: Where results are kept, in its folder ``results``, as libcni does.
    """

    name: str
    plugins: Sequence[Mapping[str, Any]]
    cni_version: str = "0.4.0"
    disable_check: bool = False
    plugin_dirs: Sequence[str | os.PathLike[str]] = DEFAULT_PLUGIN_DIRS
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE_DIR

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise InvalidArgument(
                f"network name {self.name!r} is not valid: letters, digits, '_', '.' and '-', the first a letter or digit"
            )
        if not self.plugins:
            raise InvalidArgument(f"network {self.name!r} has no plugins")
        for plugin in self.plugins:
            kind = plugin.get("type")
            if not isinstance(kind, str) or not kind or "/" in kind:
                raise InvalidArgument(
                    f"network {self.name!r}: a plugin's type is the name of its program, not {kind!r}"
                )

    @classmethod
    def from_json(cls, conf: Mapping[str, Any], **places: Any) -> Self:
        """Read a configuration list, or the configuration of a single plugin.

        Args:
            conf: The JSON object.
            places: ``plugin_dirs`` and ``cache_dir``.

        Raises:
            InvalidArgument: It is neither.
        """
        plugins = conf.get("plugins")
        if plugins is None and "type" in conf:
            plugins = [{key: value for key, value in conf.items() if key not in {"name", "cniVersion"}}]
        if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
            raise InvalidArgument("not a CNI configuration list: it has no list 'plugins' of objects")
        return cls(
            name=str(conf.get("name", "")),
            plugins=plugins,
            cni_version=str(conf.get("cniVersion") or "0.1.0"),
            disable_check=bool(conf.get("disableCheck")),
            **places,
        )

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        conf_dir: str | os.PathLike[str] = DEFAULT_CONF_DIR,
        **places: Any,
    ) -> Self:
        """Read a configuration from a file, or the one of that name from `conf_dir`.

        Args:
            source: Path of a file (whatever has a slash), or the name of a network.
            conf_dir: Directory of configurations; of several with that name the alphabetically first file counts.
            places: ``plugin_dirs`` and ``cache_dir``.

        Raises:
            NotFound: There is no such file or network.
            InvalidArgument: The file is not a CNI configuration.
        """
        if "/" in os.fspath(source):
            return cls.from_json(_read_json(Path(source)), **places)
        names = []
        for path in sorted(Path(conf_dir).glob("*")):
            if path.suffix in {".conflist", ".conf", ".json"}:
                conf = _read_json(path)
                names.append(str(conf.get("name", "")))
                if names[-1] == source:
                    return cls.from_json(conf, **places)
        raise NotFound(
            f"no CNI network {source!r} in {os.fspath(conf_dir)}; there are: {', '.join(names) or 'none'}"
        )

    @classmethod
    def loopback(cls, **places: Any) -> Self:
        """Return the network that sets the loopback interface up; attach it with ``if_name="lo"``."""
        return cls(name="cni-loopback", plugins=[{"type": "loopback"}], cni_version="0.3.1", **places)

    @asynccontextmanager
    async def attach(
        self,
        container_id: str,
        netns: str | os.PathLike[str],
        *,
        if_name: str = "eth0",
        port_mappings: Iterable[PortMapping] = (),
        capabilities: Mapping[str, Any] | None = None,
        args: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Result]:
        """Attach a network namespace for the length of a block: ADD at its start, DEL at its end, whatever happens.

        DEL is also run when ADD failed half-way or was cancelled, as the specification asks for. Plugins are not
        interrupted: a cancellation waits for the one that runs. The namespace is held open, so that DEL finds it even if
        its processes have ended.

        Args:
            container_id: Id of the container.
            netns: Its network namespace, such as ``/proc/123/ns/net`` with the pid of a created task.
            if_name: Name of the interface in the container.
            port_mappings: Ports of the host that lead to it.
            capabilities: Other capability arguments, such as ``{"bandwidth": {...}}``.
            args: ``CNI_ARGS``.

        Raises:
            InvalidArgument: An argument can't be used, or no plugin of the list can map ports.
            AlreadyExists: It is attached already, under that name of the interface.
            NotFound: A plugin's program is missing.
            CNIError: A plugin refused.
        """
        with _held(netns) as path:
            result = await self.add(
                container_id,
                path,
                if_name=if_name,
                port_mappings=port_mappings,
                capabilities=capabilities,
                args=args,
            )
            try:
                yield result
            except BaseException:
                with anyio.CancelScope(shield=True):
                    try:
                        await self.delete(container_id, path, if_name=if_name)
                    except ContainerdError as exc:
                        _log.warning(
                            "not detached", network=self.name, container_id=container_id, error=str(exc)
                        )
                raise
            with anyio.CancelScope(shield=True):
                await self.delete(container_id, path, if_name=if_name)

    async def add(
        self,
        container_id: str,
        netns: str | os.PathLike[str],
        *,
        if_name: str = "eth0",
        port_mappings: Iterable[PortMapping] = (),
        capabilities: Mapping[str, Any] | None = None,
        args: Mapping[str, str] | None = None,
    ) -> Result:
        """Attach a network namespace until `delete`; arguments and errors are those of `attach`.

        When it fails or is cancelled, what was made is taken back. Prefer a `netns` that lasts, such as one that
        ``ip netns add`` makes: a path with a pid may name another process's namespace by the time of DEL.
        """
        attachment = Attachment.checked(
            self,
            container_id,
            os.fspath(netns),
            if_name=if_name,
            port_mappings=tuple(port_mappings),
            capabilities=capabilities,
            args=args,
        )
        _refuse(self, attachment)
        try:
            return await _add(self, attachment)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(ContainerdError):
                await _delete(self, attachment)
            raise

    async def check(self, container_id: str, *, if_name: str = "eth0") -> None:
        """Make sure that everything is as `add` left it.

        Raises:
            NotFound: Nothing is known of such an attachment.
            FailedPrecondition: The list is for a CNI version before 0.4.0, which has no CHECK.
            CNIError: A plugin found something amiss.
        """
        if _version(self.cni_version) < (0, 4):
            raise FailedPrecondition(
                f"network {self.name!r} is of CNI {self.cni_version}; CHECK exists since 0.4.0"
            )
        attachment = Attachment.checked(self, container_id, "", if_name=if_name).cached()
        if attachment.result is None:
            raise NotFound(
                f"container {container_id!r} is not attached to network {self.name!r} as {if_name}"
            )
        if not self.disable_check:
            for plugin in self.plugins:
                await _run(self, plugin, "CHECK", attachment, attachment.result)

    async def delete(
        self, container_id: str, netns: str | os.PathLike[str] = "", *, if_name: str = "eth0"
    ) -> None:
        """Detach; nothing happens if it is not attached.

        Every plugin is run even if one fails.

        Args:
            container_id: Id of the container.
            netns: Its network namespace; may be gone already.
            if_name: Name of the interface in the container.

        Raises:
            CNIError: A plugin failed: the first of them. What `add` answered stays known, to try again.
        """
        await _delete(self, Attachment.checked(self, container_id, os.fspath(netns), if_name=if_name))


def _refuse(network: Network, attachment: Attachment) -> None:
    """Refuse what can't go well before anything is made."""
    if attachment.cached().result is not None:
        raise AlreadyExists(
            f"container {attachment.container_id!r} is attached to network {network.name!r} as "
            f"{attachment.if_name} already; delete() detaches it"
        )
    for plugin in network.plugins:
        find_program(plugin["type"], network.plugin_dirs)


@contextmanager
def _held(netns: str | os.PathLike[str]) -> Iterator[str]:
    """Keep a network namespace alive, and yield a path to it that names no other one later."""
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise NotFound(f"there is no network namespace {os.fspath(netns)!r}: {exc.strerror}") from exc
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


async def _add(network: Network, attachment: Attachment) -> Result:
    result: Mapping[str, Any] | None = None
    for plugin in network.plugins:
        result = await _run(network, plugin, "ADD", attachment, result)
    assert result is not None
    attachment.keep(network, result)
    return Result.from_json(result)


async def _delete(network: Network, attachment: Attachment) -> None:
    attachment = attachment.cached().without_dead_netns()
    prev_result = attachment.result if _version(network.cni_version) >= (0, 4) else None
    failures: list[ContainerdError] = []
    for plugin in reversed(network.plugins):
        try:
            await _run(network, plugin, "DEL", attachment, prev_result)
        except ContainerdError as exc:
            failures.append(exc)
    if failures:
        raise failures[0]
    attachment.cache.unlink(missing_ok=True)


async def _run(
    network: Network,
    plugin: Mapping[str, Any],
    command: Command,
    attachment: Attachment,
    prev_result: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    conf = _plugin_conf(network, plugin, attachment.capabilities, prev_result)
    return await run_plugin(
        plugin["type"], command, conf, environment=attachment.environment(), folders=network.plugin_dirs
    )


def _plugin_conf(
    network: Network,
    plugin: Mapping[str, Any],
    capabilities: Mapping[str, Any],
    prev_result: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what one plugin is given: its configuration, the network's name and version, and what is for it alone."""
    conf = {key: value for key, value in plugin.items() if key != "capabilities"}
    conf |= {"name": network.name, "cniVersion": network.cni_version}
    asked = {
        name: value for name, value in capabilities.items() if (plugin.get("capabilities") or {}).get(name)
    }
    if asked:
        conf["runtimeConfig"] = asked
    if prev_result is not None:
        conf["prevResult"] = prev_result
    return conf


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        conf = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"there is no CNI configuration {str(path)!r}") from None
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"{str(path)!r} can't be read as a CNI configuration: {exc}") from exc
    if not isinstance(conf, dict):
        raise InvalidArgument(f"{str(path)!r} is not a CNI configuration: it is no JSON object")
    return conf
