"""Credentials for registries: from Docker's and Podman's files, from credential helpers, or given by the caller.

The formats are those of docker/cli (``config.json``, the protocol of ``docker-credential-*``) and containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from containerd_aio._log import get_logger
from containerd_aio.errors import ContainerdError, FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from os import PathLike

DOCKER_HUB = "docker.io"

# What Docker calls its own registry in config.json, and the names under which it is reached.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_DOCKER_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})

# The user name under which helpers hand out an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 - not a password

_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks, and the secret that shows it. No ``repr``, error or log of this library has the secret.

    Attributes:
        username: User name; empty when `secret` is an identity token.
        secret: Password, access token, or identity token (an OAuth2 refresh token).
        bearer: A token that is sent as it is, instead of the above.
        source: Where they come from, for the log.
    """

    username: str = ""
    secret: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    source: str = "argument"


class Keychain(Protocol):
    """Knows credentials."""

    async def credentials(self, registry: str, repository: str = "") -> Credentials | None:
        """Return the credentials for a registry, None where it is to be spoken to without.

        Args:
            registry: Host, with port if there is one, as in names of images: ``docker.io``, ``localhost:5000``.
            repository: What is asked for, such as ``library/busybox``.
        """


class StaticKeychain:
    """Credentials given by the caller.

    Args:
        credentials: Registry -> its credentials.
    """

    def __init__(self, credentials: Mapping[str, Credentials]) -> None:
        self._credentials = {_normalized(registry): found for registry, found in credentials.items()}

    async def credentials(self, registry: str, repository: str = "") -> Credentials | None:  # noqa: ARG002
        """Return what was given for `registry`."""
        return self._credentials.get(_normalized(registry))


class ChainedKeychain:
    """Several keychains, of which the first that knows something counts.

    Args:
        *keychains: In the order in which they are asked.
    """

    def __init__(self, *keychains: Keychain) -> None:
        self._keychains = keychains

    async def credentials(self, registry: str, repository: str = "") -> Credentials | None:
        """Return the first answer."""
        for keychain in self._keychains:
            if (found := await keychain.credentials(registry, repository)) is not None:
                return found
        return None


class FileKeychain:
    """Credentials from files such as Docker's ``config.json`` and Podman's ``auth.json``, read anew each time.

    Of each file: the helper that ``credHelpers`` names for the registry; then the entry in ``auths`` with the longest
    path that suits the repository; then the helper for everything in ``credsStore``. The first file that knows something
    counts.

    Args:
        *paths: The files; those that do not exist are passed over.

    Raises:
        InvalidArgument: (when asked) A file is malformed.
        FailedPrecondition: (when asked) A helper is missing or fails.
    """

    def __init__(self, *paths: str | PathLike[str]) -> None:
        self._paths = [Path(path) for path in paths]

    async def credentials(self, registry: str, repository: str = "") -> Credentials | None:
        """Return what the first file that knows something has."""
        for path in self._paths:
            try:
                data = await anyio.Path(path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                get_logger(__name__).warning("credentials not read", file=str(path), error=str(exc))
                continue
            found = await _look_up(_parse(data, path), path, registry, repository)
            if found is not None:
                return found
        return None


def default_paths(environment: Mapping[str, str] | None = None) -> list[Path]:
    """Return the files that Docker and Podman would read, theirs first that is named by the environment.

    Args:
        environment: By default that of this process: ``DOCKER_CONFIG``, ``REGISTRY_AUTH_FILE``, ``XDG_RUNTIME_DIR``,
            ``XDG_CONFIG_HOME``, ``HOME``.
    """
    environment = os.environ if environment is None else environment
    home = Path(environment.get("HOME") or Path.home())
    paths: list[Path] = []
    if named := environment.get("REGISTRY_AUTH_FILE"):
        paths.append(Path(named))
    paths.append(Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        paths.append(Path(runtime) / "containers" / "auth.json")
    paths.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json")
    return paths


def default_keychain() -> Keychain:
    """Return the keychain of this user: what ``docker login`` and ``podman login`` have stored."""
    return FileKeychain(*default_paths())


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError) as exc:
        # Not the parser's text: a reader of logs has no business with what stands beside the error.
        raise InvalidArgument(f"{path} is not JSON; see there, or log in again") from exc
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path} is not a JSON object")
    return value


async def _look_up(
    value: Mapping[str, Any], path: Path, registry: str, repository: str
) -> Credentials | None:
    helpers = value.get("credHelpers")
    if isinstance(helpers, dict):
        for key, helper in helpers.items():
            if helper and _normalized(key) == _normalized(registry):
                return await ask_helper(str(helper), _server(registry), path)
    auths = value.get("auths")
    found = best_entry(auths if isinstance(auths, dict) else {}, registry, repository)
    credentials = None
    if found is not None:
        key, entry = found
        credentials = parse_entry(entry, f"{path} ({key})")
    store = value.get("credsStore")
    if credentials is None and store:
        return await ask_helper(str(store), _server(registry), path)
    return credentials


def best_entry(
    auths: Mapping[str, Any], registry: str, repository: str
) -> tuple[str, Mapping[str, Any]] | None:
    """Return the entry of ``auths`` that suits best, with its key: the one with the longest path.

    Keys are hosts, hosts with a path (Podman), or URLs (Docker).
    """
    host = _normalized(registry)
    wanted = f"{host}/{repository}" if repository else host
    best: tuple[int, str, Mapping[str, Any]] | None = None
    for key, entry in auths.items():
        name = _normalized(key)
        if not isinstance(entry, dict) or not (wanted == name or wanted.startswith(f"{name}/")):
            continue
        if best is None or len(name) > best[0]:
            best = len(name), key, entry
    return None if best is None else best[1:]


def parse_entry(entry: Mapping[str, Any], source: str) -> Credentials | None:
    """Read an entry of ``auths``; an empty one, which stands for a helper, is None.

    Raises:
        InvalidArgument: It is malformed; the text says where, and nothing of what it contains.
    """
    if token := entry.get("registrytoken"):
        return Credentials(bearer=str(token), source=source)
    username, secret = str(entry.get("username") or ""), str(entry.get("password") or "")
    if encoded := entry.get("auth"):
        try:
            decoded = base64.b64decode(str(encoded), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument(f"{source}: auth is not base64 of user:password; log in again") from None
        username, colon, secret = decoded.partition(":")
        if not colon:
            raise InvalidArgument(f"{source}: auth is not base64 of user:password; log in again")
        secret = secret.rstrip("\0")
    if token := entry.get("identitytoken"):
        return Credentials(secret=str(token), source=source)
    if not username and not secret:
        return None
    return Credentials("" if username == _TOKEN_USER else username, secret, source=source)


async def ask_helper(name: str, server: str, path: Path) -> Credentials | None:
    """Ask ``docker-credential-NAME`` for the credentials of `server`; None when it has none.

    Raises:
        InvalidArgument: That is no name of a helper.
        FailedPrecondition: It is not on ``PATH``, fails, or does not answer within 30 seconds.
    """
    if not _HELPER_NAME.fullmatch(name):
        raise InvalidArgument(f"{path}: {name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    # A pipe filled beforehand: a helper that does not read it breaks nothing.
    stdin, filled = os.pipe()
    try:
        os.write(filled, server.encode())
        os.close(filled)
        with anyio.fail_after(_HELPER_TIMEOUT):
            done = await anyio.run_process([program, "get"], stdin=stdin, check=False)
    except FileNotFoundError:
        raise FailedPrecondition(
            f"{path} names the credential helper {program}, which is not on PATH"
        ) from None
    except OSError as exc:
        raise FailedPrecondition(
            f"{path} names the credential helper {program}, which cannot be run: {exc.strerror or exc}"
        ) from exc
    except TimeoutError:
        raise FailedPrecondition(
            f"{program} (named in {path}) did not answer within {_HELPER_TIMEOUT:.0f} s"
        ) from None
    finally:
        os.close(stdin)
    source = f"{program} (named in {path})"
    if done.returncode != 0:
        # A helper tells its failures on stdout, and this one by its text.
        said = done.stdout.decode(errors="replace").strip().partition("\n")[0][:200]
        if "credentials not found" in said:
            return None
        raise FailedPrecondition(f"{source} failed for {server}: {said or f'exit code {done.returncode}'}")
    return _parse_answer(done.stdout, source)


def _parse_answer(data: bytes, source: str) -> Credentials | None:
    try:
        value = json.loads(data)
        username, secret = str(value["Username"]), str(value["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FailedPrecondition(f"{source}: the answer is not JSON with Username and Secret") from None
    if not secret:
        return None
    return Credentials("" if username == _TOKEN_USER else username, secret, source=source)


def _normalized(key: str) -> str:
    """Return a key of ``auths`` as host[/path]: without a scheme, and of Docker's URLs without their path."""
    scheme, separator, rest = key.partition("://")
    name = rest.partition("/")[0] if separator else scheme.rstrip("/")
    host, slash, path = name.partition("/")
    if path in {"v1", "v2"}:  # of the API, not of a repository
        slash = path = ""
    return (DOCKER_HUB if host in _DOCKER_HUB_NAMES else host) + slash + path


def _server(registry: str) -> str:
    return _DOCKER_HUB_KEY if _normalized(registry) == DOCKER_HUB else registry


async def find_credentials(
    keychain: Keychain | None, registry: str, repository: str = ""
) -> Credentials | None:
    """Ask a keychain, and log which source answered, never what.

    Args:
        keychain: None asks nobody.
        registry: See `Keychain.credentials`.
        repository: See there.
    """
    if keychain is None:
        return None
    try:
        found = await keychain.credentials(registry, repository)
    except ContainerdError as exc:
        get_logger(__name__).debug("no credentials", registry=registry, error=str(exc))  # who asks is told
        raise
    source = "none: anonymous" if found is None else found.source
    get_logger(__name__).debug("credentials", registry=registry, source=source)
    return found


def keychain_of(value: Keychain | Credentials | None, registry: str) -> Keychain:
    """Return the keychain for an argument of that name.

    Args:
        value: A keychain, the credentials for `registry`, or None for those of this user.
        registry: The registry.
    """
    if value is None:
        return default_keychain()
    if isinstance(value, Credentials):
        return StaticKeychain({registry: value})
    if not hasattr(value, "credentials"):
        raise InvalidArgument(f"keychain is a {type(value).__name__}; give a Keychain or Credentials")
    return value
