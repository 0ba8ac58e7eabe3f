"""What the tests of pulls and pushes have in common."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from containerd_aio import Client
from containerd_aio.daemon import Daemon
from containerd_aio.distribution.keychain import StaticKeychain
from containerd_aio.testing.images import Variant, build_index_archive

ANONYMOUS = StaticKeychain({})
USER, PASSWORD = "tester", "hush-hush"


def noise(size: int, seed: int) -> bytes:
    """Bytes that do not get smaller when they are packed."""
    return random.Random(seed).randbytes(size)


def layers(*sizes: int, seed: int = 1) -> list[dict[str, bytes]]:
    return [{f"file-{seed}-{n}": noise(size, seed + n)} for n, size in enumerate(sizes)]


async def add_image(client: Client, folder: Path, name: str, *variants: Variant) -> Any:
    """Import an image of our own making under `name`."""
    archive = build_index_archive(folder / f"{secrets.token_hex(4)}.tar", name, *variants)
    [image] = await client.import_archive(archive, all_platforms=True)
    return image


def unique_repository(host: str) -> str:
    return f"{host}/t/{secrets.token_hex(5)}"


@asynccontextmanager
async def clients(daemon: Daemon, *namespaces: str) -> AsyncIterator[list[Client]]:
    async with Client(daemon.address, namespace=namespaces[0]) as client:
        yield [client, *(client.namespaced(name) for name in namespaces[1:])]


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class TokenServer:
    """Makes tokens that docker-registry takes, for `USER` with `PASSWORD`, and for nobody else.

    Attributes:
        folder: Where its certificate is kept.
        requests: Method, scopes and grant of each request.
    """

    folder: Path
    url: str = ""

    def __post_init__(self) -> None:
        self.requests: list[tuple[str, list[str], str]] = []
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        self.bundle = self.folder / "tokens.crt"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def config(self) -> dict[str, str]:
        return {
            "realm": f"{self.url}/token",
            "service": "registry",
            "issuer": "tokens",
            "rootcertbundle": str(self.bundle),
        }

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            form = {k: v[0] for k, v in parse_qs((await request.read()).decode()).items()}
            scopes, grant = form["scope"].split(), form["grant_type"]
            allowed = (form.get("username"), form.get("password")) == (USER, PASSWORD)
            allowed = allowed or form.get("refresh_token") == "refresh"
        else:
            scopes, grant, allowed = request.query.getall("scope", []), "", False
        self.requests.append((request.method, scopes, grant))
        if not allowed:
            return web.Response(status=401)
        return web.json_response(
            {"access_token": self._token(scopes), "refresh_token": "refresh", "expires_in": 300}
        )

    def _token(self, scopes: list[str]) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": "tokens", "sub": USER, "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now,
            "jti": secrets.token_hex(8), "access": access,
        }  # fmt: skip
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self._chain]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
