"""Which hosts serve a registry: the registry itself, and mirrors that ``hosts.toml`` names.

The format is containerd's ("docs/hosts.md" there; Go: core/remotes/docker/config). Where a directory has no
``hosts.toml``, it is read as one of Docker's ``certs.d``.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from os import PathLike

DEFAULT_DIRECTORIES = ("/etc/containerd/certs.d", "/etc/docker/certs.d")
"""Where hosts are looked up unless a directory is given: those that containerd's CRI plugin is usually set to."""

_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOST = "registry-1.docker.io"


class Capability(StrEnum):
    """What a host is asked for."""

    PULL = "pull"
    RESOLVE = "resolve"
    PUSH = "push"
    REFERRERS = "referrers"


_ALL = frozenset(Capability)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """A host that serves a registry.

    Attributes:
        url: Scheme, host and path of the API without a slash at the end, such as ``https://mirror.example.com/v2``.
        capabilities: What it is asked for.
        ca: Files with certificates that are trusted besides the system's.
        client: Files with certificate and key of ours; the key may stand in the first file, then the second is None.
        skip_verify: Take any certificate.
        headers: Headers of every request.
        dial_timeout: Seconds until a connection must stand; None is the default of 30.
        http_fallback: Try ``http://`` when nobody speaks TLS there (containerd does so on this machine only).
        source: The file that says so; empty for a default.
    """

    url: str
    capabilities: frozenset[Capability] = _ALL
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str | None], ...] = ()
    skip_verify: bool = False
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False, hash=False)
    dial_timeout: float | None = None
    http_fallback: bool = False
    source: str = ""

    @property
    def host(self) -> str:
        """Host, with port if there is one."""
        return urlsplit(self.url).netloc


HostsFunction = Callable[[str], Sequence[RegistryHost]]
"""Returns the hosts of a registry in the order in which they are asked (Go: docker.RegistryHosts)."""


def default_host(registry: str, *, plain_http: bool = False) -> RegistryHost:
    """Return the host of a registry about which nothing is configured.

    Args:
        registry: As in names of images.
        plain_http: Do not encrypt.
    """
    host = _DOCKER_HUB_HOST if registry == _DOCKER_HUB else registry
    if plain_http:
        return RegistryHost(f"http://{host}/v2")
    local = is_local(host)
    port = urlsplit(f"//{host}").port
    if local and port == 80:
        return RegistryHost(f"http://{host}/v2")
    # On this machine nobody listens in, and test registries have no certificate that anybody knows.
    return RegistryHost(
        f"https://{host}/v2", skip_verify=local, http_fallback=local and port not in {None, 443}
    )


def is_local(host: str) -> bool:
    """Tell whether a host, with or without a port, is this machine (Go: docker.MatchLocalhost)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_http_url(url: str) -> bool:
    """Tell whether this is a URL of ``http`` or ``https`` with a host that can be asked."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that there is not, an address that is none
        return False


def configured_hosts(
    registry: str, directory: str | PathLike[str] | None = None, *, plain_http: bool = False
) -> list[RegistryHost]:
    """Return the hosts of a registry, mirrors first, as the files of this machine say.

    Args:
        registry: As in names of images.
        directory: Directory with a folder for each registry; by default the `DEFAULT_DIRECTORIES`.
        plain_http: Do not encrypt where nothing is configured.

    Raises:
        InvalidArgument: A file is malformed, or `directory` does not exist.
    """
    if directory is not None and not Path(directory).is_dir():
        raise InvalidArgument(f"the directory of registry hosts {str(directory)!r} does not exist")
    fallback = default_host(registry, plain_http=plain_http)
    for place in (directory,) if directory is not None else DEFAULT_DIRECTORIES:
        folder = _folder(Path(place), registry)
        if folder is None:
            continue
        file = folder / "hosts.toml"
        if file.is_file():
            return parse_hosts(file.read_bytes(), file, fallback)
        return [_docker_style(folder, fallback)]
    return [fallback]


def _folder(place: Path, registry: str) -> Path | None:
    host, colon, port = registry.rpartition(":")
    names = [f"{host}_{port}_"] if colon and port.isdigit() else []
    return next((f for name in (*names, registry, "_default") if (f := place / name).is_dir()), None)


def _docker_style(folder: Path, fallback: RegistryHost) -> RegistryHost:
    """Read a directory of Docker's: ``*.crt`` are authorities, ``x.cert`` with ``x.key`` are certificates of ours."""
    authorities = tuple(str(path) for path in sorted(folder.glob("*.crt")))
    pairs: list[tuple[str, str | None]] = []
    for path in sorted(folder.glob("*.cert")):
        key = path.with_suffix(".key")
        if not key.is_file():
            raise InvalidArgument(f"{path} has no key beside it: {key.name} is missing")
        pairs.append((str(path), str(key)))
    if not authorities and not pairs:
        return fallback
    return replace(
        fallback,
        ca=authorities,
        client=tuple(pairs),
        skip_verify=fallback.skip_verify and not authorities,
        source=str(folder),
    )


def parse_hosts(data: bytes, file: Path, fallback: RegistryHost) -> list[RegistryHost]:
    """Read a ``hosts.toml``: the hosts in its order, at last the registry itself or the ``server`` named there.

    Args:
        data: The file's content.
        file: Its path: certificates are found relative to it, and errors name it.
        fallback: What counts for the registry itself.

    Raises:
        InvalidArgument: It is malformed; the text says where.
    """
    try:
        value = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidArgument(f"{file}: {exc}") from exc
    tables = value.get("host", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidArgument(
            f'{file}: host is not a table of tables such as [host."https://mirror.example.com"]'
        )
    hosts = [_parse_host(table, url, file) for url, table in tables.items()]
    server = value.get("server")
    root = {key: item for key, item in value.items() if key not in {"host", "server"}}
    if server is not None:
        hosts.append(_parse_host(root, _text(server, "server", file), file))
    elif root:
        hosts.append(_parse_host(root, fallback.url, file))
    else:
        hosts.append(fallback)
    return hosts


def _parse_host(table: Mapping[str, Any], url: str, file: Path) -> RegistryHost:
    where = f"{file}: {url}"
    ca = tuple(_path(item, file) for item in _texts(table.get("ca", []), "ca", where))
    client = _client(table.get("client", []), file, where)
    skip = table.get("skip_verify", False)
    override = table.get("override_path", False)
    for name, flag in (("skip_verify", skip), ("override_path", override)):
        if not isinstance(flag, bool):
            raise InvalidArgument(f"{where}: {name} is {flag!r}; expected true or false")
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "http" if is_local(url) else "https", url
    parts = urlsplit(f"{scheme}://{rest}") if is_http_url(f"{scheme}://{rest}") else None
    if parts is None or parts.query or parts.fragment:
        raise InvalidArgument(
            f"{where}: {url!r} is not the URL of a host, such as https://mirror.example.com"
        )
    path = parts.path.rstrip("/")
    if not override and not path.endswith("/v2"):
        path += "/v2"
    encrypted = bool(ca or client or skip) and scheme == "http" and parts.port != 80
    capabilities = table.get("capabilities")
    return RegistryHost(
        # A user and a password that somebody has put there go nowhere, with Go neither.
        url=f"{'https' if encrypted else scheme}://{parts.netloc.rpartition('@')[2]}{path}",
        capabilities=_ALL if capabilities is None else _capabilities(capabilities, where),
        ca=ca,
        client=client,
        skip_verify=skip,
        headers=_headers(table.get("header", {}), where),
        dial_timeout=_duration(table.get("dial_timeout"), where),
        http_fallback=encrypted,
        source=str(file),
    )


def _text(value: Any, name: str, where: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{where}: {name} is {value!r}; expected text")
    return value


def _texts(value: Any, name: str, where: object) -> list[str]:
    return [_text(item, name, where) for item in (value if isinstance(value, list) else [value])]


def _path(text: str, file: Path) -> str:
    path = Path(text)
    return str(path if path.is_absolute() else file.parent / path)


def _client(value: Any, file: Path, where: str) -> tuple[tuple[str, str | None], ...]:
    """Read ``client``: a file, a list of files, or a list of pairs of certificate and key."""
    found: list[tuple[str, str | None]] = []
    for item in value if isinstance(value, list) else [value]:
        pair = (
            item[:1] if isinstance(item, list) and item[1:] == [""] else item
        )  # the key is in the first file
        files = [_path(text, file) for text in _texts(pair, "client", where)]
        if not 1 <= len(files) <= 2:
            raise InvalidArgument(f"{where}: client has {files}; expected certificate and key")
        found.append((files[0], files[1] if len(files) == 2 else None))
    return tuple(found)


def _capabilities(value: Any, where: str) -> frozenset[Capability]:
    try:
        return frozenset(Capability(name) for name in _texts(value, "capabilities", where))
    except ValueError as exc:
        raise InvalidArgument(f"{where}: {exc}; capabilities are {', '.join(Capability)}") from exc


def _headers(value: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: header is not a table")
    found = {name: tuple(_texts(items, f"header {name}", where)) for name, items in value.items()}
    for name, texts in found.items():
        # The value may be secret.
        if not _HEADER_NAME.fullmatch(name) or not all(text.isprintable() for text in texts):
            raise InvalidArgument(f"{where}: header {name!r} cannot be sent: it has a line break or the like")
    return found


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: Any, where: str) -> float | None:
    """Read a duration of Go's with one unit, such as ``3s`` or ``500ms``."""
    if value is None:
        return None
    text = _text(value, "dial_timeout", where)
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * _UNITS[unit]
    raise InvalidArgument(f"{where}: dial_timeout is {text!r}; expected such as '3s' or '500ms'")
