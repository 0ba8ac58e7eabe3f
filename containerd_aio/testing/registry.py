"""A real registry on this machine for tests: Debian's ``docker-registry``, open, with passwords, with tokens, with TLS."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio

from containerd_aio.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    from anyio.abc import Process

_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 5.0
_POLL = 0.02


class RegistryServer:
    """A registry of a test's own, on a free port of loopback, for use as ``async with``.

    Args:
        htpasswd: File with names and bcrypt hashes of passwords: who is not in it is refused.
        token: Who makes tokens: ``realm``, ``service``, ``issuer`` and ``rootcertbundle`` (distribution: "configuration",
            "token").
        certificate: Files with certificate and key: the registry speaks TLS.
        client_ca: File with the authority whose certificates clients must have.
        mirror_of: URL of another registry, which this one reads from and keeps what it reads (a pull-through cache).
        root: Where its content is kept; by default in a directory that is removed at the end.
        binary: The program.

    Attributes:
        host: Host and port, as in names of images.

    Raises:
        FailedPrecondition: (on entering) The program is missing, or it does not start; the text has its last words.
    """

    def __init__(
        self,
        *,
        htpasswd: str | PathLike[str] | None = None,
        token: dict[str, str] | None = None,
        certificate: tuple[str | PathLike[str], str | PathLike[str]] | None = None,
        client_ca: str | PathLike[str] | None = None,
        mirror_of: str | None = None,
        root: str | PathLike[str] | None = None,
        binary: str = "docker-registry",
    ) -> None:
        if htpasswd is not None and token is not None:
            raise InvalidArgument("a registry asks for passwords or for tokens, not for both")
        self.host = ""
        self._options = {"htpasswd": htpasswd, "token": token, "certificate": certificate}
        self._client_ca = client_ca
        self._mirror_of = mirror_of
        self._root = root
        self._binary = binary
        self._secure = certificate is not None
        self._stack = AsyncExitStack()
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._secure else 'http'}://{self.host}"

    async def __aenter__(self) -> Self:
        binary = shutil.which(self._binary)
        if binary is None:
            raise FailedPrecondition(
                f"there is no {self._binary} on PATH; install the package docker-registry (Debian)"
            )
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="containerd-aio-registry-")))
            port = _free_port()
            config = folder / "config.yml"
            config.write_text(json.dumps(self._config(folder, port)), encoding="utf-8")  # JSON is YAML
            log = stack.enter_context((folder / "log").open("wb"))
            self._process = await anyio.open_process(
                [binary, "serve", str(config)], stdin=None, stdout=log, stderr=log
            )
            stack.push_async_callback(self._stop)
            await self._wait(port, folder / "log")
            self.host = f"127.0.0.1:{port}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def _config(self, folder: Path, port: int) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "of no importance"}
        certificate = self._options["certificate"]
        if isinstance(certificate, tuple):
            http["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
            if self._client_ca is not None:
                http["tls"]["clientcas"] = [str(self._client_ca)]
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self._root or folder / "data")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if self._options["htpasswd"] is not None:
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self._options["htpasswd"])}}
        if self._options["token"] is not None:
            config["auth"] = {"token": self._options["token"]}
        if self._mirror_of is not None:
            config["proxy"] = {"remoteurl": self._mirror_of}
        return config

    async def _wait(self, port: int, log: Path) -> None:
        assert self._process is not None
        with anyio.move_on_after(_START_TIMEOUT):
            while self._process.returncode is None:
                with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                    # An answer, not just a connection: it listens before it has read its certificates. With TLS it
                    # answers that, too, in the clear.
                    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                        await stream.send(b"GET /v2/ HTTP/1.0\r\n\r\n")
                        await stream.receive(1)
                    return
                await anyio.sleep(_POLL)
        words = (await anyio.Path(log).read_text(errors="replace"))[-1000:]
        raise FailedPrecondition(f"{self._binary} does not start; its log ends with:\n{words}")

    async def _stop(self) -> None:
        process = self._process
        assert process is not None
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(_STOP_TIMEOUT) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
                await process.wait()
            await process.aclose()


def _free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
