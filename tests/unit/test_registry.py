"""The registry client against a registry that misbehaves."""

from __future__ import annotations

import json
import ssl
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from aiohttp import web

from containerd_aio.distribution import _blob
from containerd_aio.distribution._blob import BlobReader, parallel_chunks
from containerd_aio.distribution._endpoint import registry_message
from containerd_aio.distribution.hosts import RegistryHost
from containerd_aio.distribution.registry import MAX_MANIFEST, Registry
from containerd_aio.errors import (
    ConnectError,
    ContainerdError,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from tests.unit.fake_registry import (
    INDEX,
    MANIFEST,
    FakeRegistry,
    cut_after,
    described,
    digest_of,
    status,
)

DATA = bytes(range(256)) * 4000
DOCUMENT = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}).encode()


async def read(registry: Registry, target: Any, **options: Any) -> bytes:
    async with registry.blob("a/b", target, **options) as chunks:
        return b"".join([chunk async for chunk in chunks])


# -- resolving --------------------------------------------------------------------------------------------------


@pytest.mark.shows("seed:containerd.RemoteContext.Resolver")
async def test_a_tag_and_a_digest_are_resolved_without_a_body() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add_manifest("a/b", "1", DOCUMENT)
        assert await registry.resolve("a/b", "1") == target
        assert await registry.resolve("a/b", target.digest) == target
        assert {r.method for r in server.requests} == {"HEAD"}
        accepted = server.requests[0].headers["Accept"].split(", ")
        assert accepted[-1] == "*/*"
        assert {MANIFEST, INDEX} < set(accepted)
        assert len(accepted) == 5


async def test_a_registry_that_knows_no_head_is_asked_with_get() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add_manifest("a/b", "1", DOCUMENT)
        server.on("HEAD", "manifests", status(405))
        assert await registry.resolve("a/b", "1") == target


async def test_without_a_digest_in_the_answer_the_body_is_hashed() -> None:
    async def silent(request: web.Request) -> web.Response:
        return web.Response(body=DOCUMENT, headers={"Content-Type": f"{MANIFEST}; charset=utf-8"})

    async with FakeRegistry() as server, server.client() as registry:
        server.on("HEAD|GET", "manifests", silent)
        assert await registry.resolve("a/b", "1") == described(DOCUMENT, MANIFEST)
        with pytest.raises(DataLoss, match="has the digest"):
            server.on("HEAD", "manifests", status(405))
            server._rules.reverse()
            await registry.resolve("a/b", "sha256:" + "0" * 64)


async def test_a_registry_that_names_another_digest_than_was_asked_for_is_refused() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        wrong = "sha256:" + "1" * 64
        server.on("HEAD", "manifests", status(200, Docker_Content_Digest=wrong, Content_Type=MANIFEST))
        server.on("HEAD", "blobs", status(404))
        with pytest.raises(DataLoss, match=wrong):
            await registry.resolve("a/b", "sha256:" + "2" * 64)


async def test_a_manifest_that_is_too_large_is_refused_before_it_is_read() -> None:
    async def large(_: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(MAX_MANIFEST + 1), headers={"Docker-Content-Digest": digest_of(b"")})

    async with FakeRegistry() as server, server.client() as registry:
        server.on("HEAD|GET", "manifests", large)
        with pytest.raises(ResourceExhausted, match="a manifest has at most"):
            await registry.resolve("a/b", "1")
        with pytest.raises(ResourceExhausted, match="more than 10 bytes"):
            await registry.manifest("a/b", described(b"0123456789", MANIFEST))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (404, NotFound),
        (403, PermissionDenied),
        (401, Unauthenticated),
        (429, ResourceExhausted),
        (503, Unavailable),
    ],
)
async def test_statuses_become_errors_with_the_registrys_words(code: int, error: type[Exception]) -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.on("HEAD|GET", "manifests", status(code))
        with pytest.raises(error, match=f"a/b:1: status {code}"):
            await registry.resolve("a/b", "1")
        with pytest.raises(error, match=f"X: says {code}"):
            await registry.manifest("a/b", described(b"x", MANIFEST))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"errors":[{"code":"X","message":"two\\nlines \\u001b[2J"}]}', "X: two lines  [2J"),
        (b"\x1b[31mred\nand more", " [31mred"),
        (b"<html>", ""),
        (b"[" * 60_000, "[" * 300),
    ],
)
def test_the_registrys_words_are_fit_for_a_terminal(body: bytes, said: str) -> None:
    assert registry_message(body) == said


# -- retries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
async def test_what_passes_by_is_tried_again(code: int) -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add_manifest("a/b", "1", DOCUMENT)
        server.on("HEAD", "manifests", status(code), times=3)
        assert await registry.resolve("a/b", "1") == target
        assert len(server.requests) == 4


async def test_retry_after_is_obeyed_up_to_a_limit() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add_manifest("a/b", "1", DOCUMENT)
        server.on("HEAD", "manifests", status(429, Retry_After="0"), times=1)
        assert await registry.resolve("a/b", "1") == target
        server.on("HEAD", "manifests", status(429, Retry_After="6"))
        with pytest.raises(ResourceExhausted):
            await registry.resolve("a/b", "1")
        assert len(server.requests) == 3  # so long nobody waits


async def test_what_stays_is_not_tried_again() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        with pytest.raises(NotFound):
            await registry.resolve("a/b", "1")
        assert len(server.requests) == 1


async def test_nobody_there() -> None:
    async with FakeRegistry() as server:
        host = server.host
    async with server.client() as registry:
        with pytest.raises(ConnectError, match=f"http://{host}/v2/a/b/manifests/1: no connection"):
            await registry.resolve("a/b", "1")


# -- blobs ------------------------------------------------------------------------------------------------------


async def test_a_blob_is_read_and_verified() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add(DATA)
        assert await read(registry, target) == DATA
        assert await read(registry, target, offset=1000) == DATA[1000:]
        assert server.requests[-1].headers["Range"] == f"bytes=1000-{len(DATA) - 1}"
        with pytest.raises(InvalidArgument, match="lies outside"):
            await read(registry, target, offset=len(DATA) + 1)


async def test_a_cut_is_resumed_where_it_happened() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add(DATA)
        server.on("GET", "blobs", cut_after(DATA, 100_000), times=8)
        assert await read(registry, target) == DATA
        starts = [int(r.headers.get("Range", "bytes=0-")[6:].partition("-")[0]) for r in server.requests]
        assert starts == sorted(set(starts))
        assert starts[-1] == 800_000  # eight cuts, none without progress: none counts


async def test_a_registry_that_only_cuts_is_given_up() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add(DATA)
        server.on("GET", "blobs", cut_after(DATA, 0))
        with pytest.raises(Unavailable, match="the connection broke"):
            await read(registry, target)
        assert len(server.requests) == 4


async def test_a_registry_without_ranges_is_resumed_by_skipping() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.ranges = False
        target = server.add(DATA)
        server.on("GET", "blobs", cut_after(DATA, 300_000), times=1)
        assert await read(registry, target) == DATA


async def test_a_truncated_blob_is_no_blob() -> None:
    async def short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(DATA[:1000])
        return response

    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "blobs", short)
        with pytest.raises(Unavailable, match=f"the body ended at byte 1000 of {len(DATA)}"):
            await read(registry, described(DATA))


@pytest.mark.parametrize("said", ["bytes 7-8/9", "bytes 0-9/10", "nonsense"])
async def test_another_range_than_the_one_asked_for_is_refused(said: str) -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "blobs", status(206, Content_Range=said))
        with pytest.raises(DataLoss, match=r"another range|is announced with"):
            await read(registry, described(DATA))


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (DATA[:-1], "is announced with"),
        (DATA + b"x", "is announced with"),
        (b"x" + DATA[1:], "has the digest"),
    ],
    ids=["shorter", "longer", "other"],
)
async def test_lies_about_size_and_digest_are_found_out(sent: bytes, why: str) -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.blobs[digest_of(DATA)] = sent
        with pytest.raises(DataLoss, match=why):
            await read(registry, described(DATA))
        server.manifests["a/b", digest_of(DATA)] = (MANIFEST, sent)
        with pytest.raises((DataLoss, ResourceExhausted)):
            await registry.manifest("a/b", described(DATA, MANIFEST))


async def test_a_blob_that_is_kept_elsewhere_is_fetched_there_without_credentials() -> None:
    async with FakeRegistry() as elsewhere, FakeRegistry() as server, server.client() as registry:
        target = replace(
            elsewhere.add(DATA), urls=("ftp://x/y", f"{elsewhere.url}/v2/x/blobs/{digest_of(DATA)}")
        )
        registry.endpoints()[0].authorizer("a/b").header = _bearer
        assert await read(registry, target) == DATA
        assert "Authorization" not in elsewhere.requests[0].headers
        assert not server.requests
        elsewhere.blobs.clear()
        server.add(DATA)
        assert await read(registry, target) == DATA


async def test_more_than_was_announced_is_not_taken() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(DATA)

    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "blobs", endless)
        with pytest.raises(DataLoss, match="is longer than"):
            await read(registry, described(DATA))


async def test_ranges_in_parallel_arrive_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blob, "RANGE_SIZE", 100_000)
    async with FakeRegistry() as server, server.client() as registry:
        target = server.add(DATA)
        server.on("GET", "blobs", cut_after(DATA, 150_000), times=2)
        reader = BlobReader(registry, "a/b", target)
        async with anyio.create_task_group() as tasks:
            got = [c async for c in parallel_chunks(tasks, reader, 5, len(DATA), ranges=3)]
        assert b"".join(got) == DATA[5:]
        assert len({r.headers["Range"] for r in server.requests}) >= 11


async def test_parallel_ranges_of_a_registry_that_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blob, "RANGE_SIZE", 100_000)
    async with FakeRegistry() as server, server.client() as registry:
        server.ranges = False
        target = server.add(DATA)
        reader = BlobReader(registry, "a/b", target)
        async with anyio.create_task_group() as tasks:
            got = [c async for c in parallel_chunks(tasks, reader, 0, len(DATA), ranges=3)]
        assert b"".join(got) == DATA


async def test_a_failure_in_a_parallel_range_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blob, "RANGE_SIZE", 100_000)
    async with FakeRegistry() as server, server.client() as registry:
        reader = BlobReader(registry, "a/b", described(DATA))
        with pytest.raises(NotFound):
            async with anyio.create_task_group() as tasks:
                try:
                    async for _ in parallel_chunks(tasks, reader, 0, len(DATA), ranges=3):
                        pass
                except NotFound as exc:
                    failure = exc
                tasks.cancel_scope.cancel()
            raise failure


# -- several hosts ----------------------------------------------------------------------------------------------


async def test_a_mirror_is_asked_first_and_told_for_whom() -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as origin:
        hosts = [RegistryHost(f"{mirror.url}/v2"), RegistryHost(f"{origin.url}/v2")]
        target = mirror.add_manifest("a/b", "1", DOCUMENT)
        async with origin.client(hosts=lambda _: hosts) as registry:
            assert await registry.resolve("a/b", "1") == target
        assert mirror.requests[0].query == {"ns": origin.host}
        assert not origin.requests


@pytest.mark.parametrize("fault", [404, 403, 500, 429])
async def test_after_any_failure_of_a_mirror_the_next_host_is_asked(fault: int) -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as origin:
        hosts = [RegistryHost(f"{mirror.url}/v2"), RegistryHost(f"{origin.url}/v2")]
        target, blob = origin.add_manifest("a/b", "1", DOCUMENT), origin.add(DATA)
        mirror.on("HEAD|GET", "", status(fault, Retry_After="60"))
        async with origin.client(hosts=lambda _: hosts) as registry:
            assert await registry.resolve("a/b", "1") == target
            assert await registry.manifest("a/b", target) == DOCUMENT
            assert await read(registry, blob) == DATA
        assert not any(r.query for r in origin.requests)


async def test_a_mirror_that_cuts_is_followed_by_the_next_host_at_the_same_byte() -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as origin:
        hosts = [RegistryHost(f"{mirror.url}/v2"), RegistryHost(f"{origin.url}/v2")]
        blob = origin.add(DATA)
        mirror.on("GET", "blobs", cut_after(DATA, 200_000))
        async with origin.client(hosts=lambda _: hosts) as registry:
            assert await read(registry, blob) == DATA
        assert origin.requests[0].headers["Range"] == f"bytes=200000-{len(DATA) - 1}"


async def test_a_mirror_that_lies_about_a_manifest_is_not_believed() -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as origin:
        hosts = [RegistryHost(f"{mirror.url}/v2"), RegistryHost(f"{origin.url}/v2")]
        target = origin.add_manifest("a/b", "1", DOCUMENT)
        mirror.manifests["a/b", target.digest] = (MANIFEST, DOCUMENT[::-1])
        async with origin.client(hosts=lambda _: hosts) as registry:
            assert await registry.manifest("a/b", target) == DOCUMENT


async def test_the_error_is_the_one_that_says_most() -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as origin:
        hosts = [RegistryHost(f"{mirror.url}/v2"), RegistryHost(f"{origin.url}/v2")]
        origin.on("HEAD", "", status(503))
        async with origin.client(hosts=lambda _: hosts) as registry:
            with pytest.raises(NotFound):
                await registry.resolve("a/b", "1")


async def test_capabilities_are_respected() -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as origin:
        from containerd_aio.distribution.hosts import Capability

        pull_only = RegistryHost(f"{mirror.url}/v2", frozenset({Capability.PULL}))
        async with origin.client(hosts=lambda _: [pull_only]) as registry:
            with pytest.raises(InvalidArgument, match="no host is configured for pull and resolve"):
                await registry.resolve("a/b", "1")
            with pytest.raises(InvalidArgument, match="for push"):
                registry.endpoints(Capability.PUSH)
        assert not mirror.requests


# -- redirects, proxies, TLS ------------------------------------------------------------------------------------


async def test_a_redirect_carries_nothing_of_ours_to_another_host() -> None:
    async with FakeRegistry() as storage, FakeRegistry() as server:
        blob = storage.add(DATA)
        location = f"{storage.url}/v2/x/blobs/{blob.digest}?signature=secret"
        server.on("GET", "blobs", status(307, Location=location))
        host = RegistryHost(f"{server.url}/v2", headers={"X-Team": ("ours",)})
        async with server.client(hosts=lambda _: [host]) as registry:
            registry.endpoints()[0].authorizer("a/b").header = _bearer  # type: ignore[method-assign]
            assert await read(registry, blob) == DATA
        assert server.requests[0].headers["Authorization"] == "Bearer hush"
        assert server.requests[0].headers["X-Team"] == "ours"
        assert not {"Authorization", "X-Team"} & storage.requests[0].headers.keys()


async def _bearer(_: object) -> str:
    return "Bearer hush"


async def test_a_redirect_on_the_same_host_keeps_them() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        blob = server.add(DATA)
        server.on("GET", "/a/b/", status(302, Location=f"/v2/c/blobs/{blob.digest}"))
        registry.endpoints()[0].authorizer("a/b").header = _bearer
        assert await read(registry, blob) == DATA
        assert [r.headers["Authorization"] for r in server.requests] == ["Bearer hush"] * 2


async def test_credentials_that_cannot_be_sent_are_not_quoted() -> None:
    async with FakeRegistry() as server, server.client() as registry:

        async def broken(_: object) -> str:
            return "Bearer hush\nhush"

        registry.endpoints()[0].authorizer("a/b").header = broken
        with pytest.raises(InvalidArgument, match="has a line break") as caught:
            await read(registry, described(DATA))
        assert "hush" not in "".join(traceback.format_exception(caught.value))


async def test_redirects_have_an_end_and_errors_no_query() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "", status(302, Location="/v2/again?signature=secret"))
        with pytest.raises(FailedPrecondition, match="more than 10 redirects") as caught:
            await read(registry, described(DATA))
        assert "secret" not in str(caught.value)
        assert len(server.requests) == 11


async def test_a_redirect_to_something_else_is_not_followed() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        for location in ("file:///etc/passwd", "http://[::1", "https://a:99999/"):
            server.on("GET", "", status(302, Location=location), times=1)
            with pytest.raises(FailedPrecondition, match="is not HTTP"):
                await read(registry, described(DATA))


async def test_proxies_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeRegistry() as proxy, FakeRegistry() as server:
        server.add_manifest("a/b", "1", DOCUMENT)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with server.client() as registry:
            with pytest.raises(NotFound):
                await registry.resolve("a/b", "1")
        assert proxy.requests[0].headers["Host"] == server.host
        assert not server.requests
        for given, why in {
            "socks5://me:hush@proxy:1080": r"proxy socks5://proxy:1080 .* has to be a URL of http",
            "http://me:hush@127.0.0.1:1": "no connection to the proxy http://127.0.0.1:1 of the environment",
        }.items():
            monkeypatch.setenv("http_proxy", given)
            async with server.client() as registry:
                with pytest.raises(ContainerdError, match=why) as caught:
                    await registry.resolve("a/b", "1")
            assert "hush" not in str(caught.value)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with server.client() as registry:
            assert (await registry.resolve("a/b", "1")).media_type == MANIFEST


class _Certificates:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.server)
        authority.configure_trust(self.server)
        self.ca = str(folder / "ca.crt")
        authority.cert_pem.write_to_path(self.ca)
        self.client = str(folder / "client.pem")
        authority.issue_cert("client.example.com").private_key_and_cert_chain_pem.write_to_path(self.client)


async def test_tls_with_an_authority_of_our_own(tmp_path: Path) -> None:
    certificates = _Certificates(tmp_path)
    async with FakeRegistry(tls=certificates.server) as server:
        server.add_manifest("a/b", "1", DOCUMENT)
        async with server.client() as registry:
            with pytest.raises(ConnectError, match="certificate is not trusted") as caught:
                await registry.resolve("a/b", "1")
            assert caught.value.reason == "tls"
            assert not server.requests
        for host in (
            RegistryHost(f"{server.url}/v2", ca=(certificates.ca,)),
            RegistryHost(f"{server.url}/v2", skip_verify=True),
        ):
            async with server.client(hosts=lambda _, host=host: [host]) as registry:
                assert (await registry.resolve("a/b", "1")).digest == digest_of(DOCUMENT)


async def test_a_registry_that_wants_a_certificate_of_ours(tmp_path: Path) -> None:
    certificates = _Certificates(tmp_path)
    certificates.server.verify_mode = ssl.CERT_REQUIRED
    async with FakeRegistry(tls=certificates.server) as server:
        server.add_manifest("a/b", "1", DOCUMENT)
        with_it = RegistryHost(
            f"{server.url}/v2", ca=(certificates.ca,), client=((certificates.client, None),)
        )
        async with server.client(hosts=lambda _: [with_it]) as registry:
            assert (await registry.resolve("a/b", "1")).digest == digest_of(DOCUMENT)
        without = RegistryHost(f"{server.url}/v2", ca=(certificates.ca,))
        async with server.client(hosts=lambda _: [without]) as registry:
            with pytest.raises(Unavailable):
                await registry.resolve("a/b", "1")


async def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    host = RegistryHost("https://127.0.0.1:1/v2", ca=(str(tmp_path / "none.crt"),))
    async with FakeRegistry() as server, server.client(hosts=lambda _: [host]) as registry:
        with pytest.raises(InvalidArgument, match=r"none\.crt"):
            await registry.resolve("a/b", "1")


async def test_without_tls_on_this_machine_http_is_tried() -> None:
    async with FakeRegistry() as server:
        server.add_manifest("a/b", "1", DOCUMENT)
        async with Registry(server.host, hosts_dir=None) as registry:
            assert (await registry.resolve("a/b", "1")).digest == digest_of(DOCUMENT)


# -- lists ------------------------------------------------------------------------------------------------------


async def test_tags_of_all_pages() -> None:
    async def page(request: web.Request) -> web.Response:
        last = int(request.query.get("last", "0"))
        headers = {"Link": f'</v2/a/b/tags/list?last={last + 1}>; rel="next"'} if last < 2 else {}
        return web.json_response({"name": "a/b", "tags": [f"t{last}"]}, headers=headers)

    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "tags/list", page)
        assert await registry.tags("a/b") == ["t0", "t1", "t2"]


@pytest.mark.parametrize(
    "link", ["http://127.0.0.1:1/v2/a/b/tags/list", "/v2/a/b/tags/list", "/v2/c/tags/list"]
)
async def test_a_next_page_that_is_none_ends_the_list(link: str) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.json_response({"tags": ["t"]}, headers={"Link": f'<{link}>; rel="next"'})

    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "tags/list", page)
        assert set(await registry.tags("a/b")) == {"t"}
        assert len(server.requests) <= 2


async def test_a_malformed_link_to_the_next_page_is_told() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.json_response({"tags": ["t"]}, headers={"Link": '<http://[::1>; rel="next"'})

    async with FakeRegistry() as server, server.client() as registry:
        server.on("GET", "tags/list", page)
        with pytest.raises(DataLoss, match="link to the next page is malformed"):
            await registry.tags("a/b")


def _referrers(*types: str) -> bytes:
    entries = [
        {"mediaType": MANIFEST, "digest": digest_of(t.encode()), "size": 3, "artifactType": t} for t in types
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


@pytest.mark.parametrize("by_tag", [False, True])
async def test_referrers(by_tag: bool) -> None:
    subject = digest_of(b"subject")

    async def listing(_: web.Request) -> web.Response:
        return web.Response(body=_referrers("a/sig", "a/sbom"), content_type=INDEX)

    async with FakeRegistry() as server, server.client() as registry:
        assert await registry.referrers("a/b", subject) == []
        if by_tag:
            server.add_manifest("a/b", subject.replace(":", "-"), _referrers("a/sig", "a/sbom"), INDEX)
        else:
            server.on("GET", "referrers", listing)
        assert [d.artifact_type for d in await registry.referrers("a/b", subject)] == ["a/sig", "a/sbom"]
        [only] = await registry.referrers("a/b", subject, artifact_type="a/sbom")
        assert only.digest == digest_of(b"a/sbom")
