"""Addresses, and what it means that nobody answers there."""

from __future__ import annotations

import errno
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_aio.errors import ConnectError, InvalidArgument

if TYPE_CHECKING:
    from containerd_aio.errors import ConnectReason

DEFAULT_ADDRESS = "/run/containerd/containerd.sock"

# sockaddr_un.sun_path, less the terminating zero
_MAX_UNIX_PATH = 107


@dataclass(frozen=True, slots=True)
class Address:
    """Where a containerd listens.

    Attributes:
        text: The address as it was given; used in messages.
        path: Path of the unix socket (a leading NUL marks an abstract one); None for TCP.
        host: Host name or IP address; empty for unix sockets.
        port: TCP port; 0 for unix sockets.
    """

    text: str
    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Accepted are a socket path (``/run/containerd/containerd.sock``), ``unix:///path`` or ``unix:/path``, an
        abstract socket (``@name``, ``unix:@name``, ``unix-abstract:name``) and ``tcp://host:port``.

        Raises:
            InvalidArgument: It is none of these, or the path is too long for a unix socket.
        """
        scheme, sep, rest = text.partition(":")
        if text.startswith(("/", "@")):
            return cls._unix(text, text)
        if sep and scheme == "unix":
            return cls._unix(text, rest.removeprefix("//"))
        if sep and scheme == "unix-abstract":
            return cls._unix(text, "@" + rest)
        if sep and scheme == "tcp":
            return cls._tcp(text, rest.removeprefix("//"))
        raise InvalidArgument(
            f"address {text!r} is not understood; give the path of containerd's socket ({DEFAULT_ADDRESS}), "
            f"unix:///path, unix-abstract:name or tcp://host:port"
        )

    @classmethod
    def _unix(cls, text: str, path: str) -> Address:
        if not path.startswith(("/", "@")) or len(path) < 2:
            raise InvalidArgument(f"address {text!r}: a unix socket needs an absolute path or an @name")
        if len(path.encode()) > _MAX_UNIX_PATH:
            raise InvalidArgument(
                f"address {text!r}: the path has {len(path.encode())} bytes and a unix socket allows "
                f"{_MAX_UNIX_PATH}; use a shorter directory"
            )
        return cls(text, path="\0" + path[1:] if path[0] == "@" else path)

    @classmethod
    def _tcp(cls, text: str, rest: str) -> Address:
        host, _, port = rest.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidArgument(f"address {text!r}: expected tcp://host:port with a port from 1 to 65535")
        return cls(text, host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        return self.text


def explain_dial_failure(address: Address, exc: OSError) -> ConnectError:
    """Say why `address` could not be reached, and what to do about it."""
    where = f"cannot connect to containerd at {address}: "

    def because(reason: ConnectReason, text: str) -> ConnectError:
        return ConnectError(where + text, address=address.text, reason=reason)

    if isinstance(exc, ssl.SSLError):
        return because(
            "tls", f"the TLS handshake failed ({exc}); check the CA, the certificate and the host name"
        )
    if address.path is None:
        if isinstance(exc, ConnectionRefusedError):
            return because("refused", "nobody listens on that port; is containerd's tcp_address enabled?")
        return because("address", f"{exc.strerror or exc}; check host, port and network")
    if isinstance(exc, FileNotFoundError):
        parent = Path(address.path).parent
        hint = "" if parent.is_dir() else f" ({parent} does not exist either)"
        return because(
            "missing",
            f"there is no such socket{hint}; is containerd running, and is this the address of its config?",
        )
    if isinstance(exc, PermissionError):
        return because(
            "permission", "permission denied; run as root or as a member of the group that owns the socket"
        )
    if isinstance(exc, ConnectionRefusedError):
        if address.path.startswith("\0"):
            return because("refused", "nobody listens on that abstract socket; is containerd running?")
        if Path(address.path).is_socket():
            return because(
                "refused", "the socket is there but nobody listens; containerd has died or is just starting"
            )
        return because("not-containerd", "that is not a socket")
    if exc.errno in {errno.ENOTSOCK, errno.EPROTOTYPE}:
        return because("not-containerd", "that is not a stream socket")
    return because("address", f"{exc.strerror or exc}")
