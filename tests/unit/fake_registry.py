"""A registry in memory that can be told to misbehave: what a real one never does when it is watched."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from aiohttp import web

from containerd_aio.distribution._retry import Retries
from containerd_aio.distribution.hosts import RegistryHost
from containerd_aio.distribution.keychain import StaticKeychain
from containerd_aio.distribution.registry import Registry
from containerd_aio.services.descriptor import Descriptor

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
QUICK = Retries(attempts=4, initial=0.001, maximum=0.002, longest=5)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def described(data: bytes, media_type: str = LAYER) -> Descriptor:
    return Descriptor(media_type, digest_of(data), len(data))


class FakeRegistry:
    """Content in dictionaries, a list of the requests, and rules that come before the usual answers."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.mountable: set[tuple[str, str]] = set()
        self.ranges = True
        self._rules: list[tuple[str, re.Pattern[str], Handler, list[int]]] = []
        self._tls = tls
        self.host = ""

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def on(self, method: str, path: str, handler: Handler, *, times: int = 1 << 30) -> None:
        """Let `handler` answer requests whose path matches, so many times; None from it is the usual answer."""
        self._rules.append((method, re.compile(path), handler, [times]))

    def add(self, data: bytes) -> Descriptor:
        self.blobs[digest_of(data)] = data
        return described(data)

    def add_manifest(self, repository: str, tag: str, data: bytes, media_type: str = MANIFEST) -> Descriptor:
        for reference in (tag, digest_of(data)):
            self.manifests[repository, reference] = (media_type, data)
        return described(data, media_type)

    def count(self, method: str, path: str) -> int:
        return sum(r.method == method and re.search(path, r.path) is not None for r in self.requests)

    @asynccontextmanager
    async def client(self, **options: Any) -> Any:
        given = {"keychain": StaticKeychain({}), "plain_http": True, "retries": QUICK, "hosts_dir": None}
        if "hosts" not in options:
            given["hosts"] = lambda _: [RegistryHost(f"{self.url}/v2")]
        async with Registry(self.host, **given | options) as registry:
            yield registry

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        for method, path, handler, left in self._rules:
            if request.method in method.split("|") and path.search(request.path) and left[0]:
                left[0] -= 1
                answer = await handler(request)  # type: ignore[arg-type]
                if answer is not None:
                    return answer
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/(uploads/.*|[^/]+)", request.path)
        if match is None:
            return web.Response(status=404)
        repository, kind, rest = match.groups()
        if rest.startswith("uploads/"):
            return await self._upload(request, repository, rest.removeprefix("uploads/"))
        if kind == "manifests":
            return await self._manifest(request, repository, rest)
        return await self._blob(request, rest)

    async def _manifest(
        self, request: web.BaseRequest, repository: str, reference: str
    ) -> web.StreamResponse:
        if request.method == "PUT":
            data = await request.read()
            for name in (reference, digest_of(data)):
                self.manifests[repository, name] = (request.headers["Content-Type"], data)
            return web.Response(status=201, headers={"Docker-Content-Digest": digest_of(data)})
        found = self.manifests.get((repository, reference))
        if found is None:
            errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(errors, status=404)
        media_type, data = found
        headers = {"Docker-Content-Digest": digest_of(data), "Content-Type": media_type}
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.BaseRequest, digest: str) -> web.StreamResponse:
        data = self.blobs.get(digest)
        if data is None:
            return web.Response(status=404)
        return self.ranged(request, data)

    def ranged(self, request: web.BaseRequest, data: bytes) -> web.Response:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if match is None or not self.ranges:
            return web.Response(body=data)
        first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return web.Response(status=206, body=data[first : last + 1], headers=headers)

    async def _upload(self, request: web.BaseRequest, repository: str, name: str) -> web.StreamResponse:
        if request.method == "POST":
            if (source := request.query.get("from")) and (source, request.query["mount"]) in self.mountable:
                return web.Response(status=201)
            name = secrets.token_hex(4)
            self.uploads[name] = bytearray()
            return web.Response(status=202, headers={"Location": f"/v2/{repository}/blobs/uploads/{name}"})
        upload = self.uploads.get(name)
        if upload is None:
            return web.Response(status=404)
        here = {"Location": f"/v2/{repository}/blobs/uploads/{name}", "Range": f"0-{max(len(upload) - 1, 0)}"}
        if request.method == "GET":
            return web.Response(status=204, headers=here)
        if request.method == "PATCH":
            begin = int(request.headers["Content-Range"].partition("-")[0])
            if begin != len(upload):
                return web.Response(status=416)
        async for chunk in request.content.iter_any():
            upload += chunk
        if request.method == "PATCH":
            return web.Response(status=202, headers=here | {"Range": f"0-{len(upload) - 1}"})
        if digest_of(bytes(upload)) != request.query["digest"]:
            errors = {"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}
            return web.json_response(errors, status=400)
        self.blobs[request.query["digest"]] = bytes(upload)
        del self.uploads[name]
        return web.Response(status=201, headers={"Docker-Content-Digest": request.query["digest"]})


def cut_after(data: bytes, count: int) -> Handler:
    """Announce all of `data` and cut the connection after so many bytes; of the range asked for."""

    async def handler(request: web.Request) -> web.StreamResponse:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        first = int(match[1]) if match else 0
        response = web.StreamResponse(status=206 if match else 200)
        if match:
            response.headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        response.content_length = len(data) - first
        await response.prepare(request)
        await response.write(data[first : first + count])
        assert request.transport is not None
        request.transport.close()
        return response

    return handler


def status(code: int, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        body = json.dumps({"errors": [{"code": "X", "message": f"says {code}"}]}).encode()
        return web.Response(
            status=code, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return handler
