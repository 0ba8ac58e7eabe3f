"""Authorization: challenges, tokens, and what is never sent or said."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import anyio
import pytest
from aiohttp import web

from containerd_aio.distribution._challenge import Challenge, merge_scopes, parse_challenges
from containerd_aio.distribution.auth import Authorizer
from containerd_aio.distribution.keychain import Credentials, StaticKeychain
from containerd_aio.errors import ContainerdError, FailedPrecondition, PermissionDenied, Unauthenticated
from tests.unit.fake_registry import MANIFEST, FakeRegistry, status

SECRET = "hush-hush"
DOCUMENT = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST}).encode()
PULL = "repository:a/b:pull"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (['Basic realm="x"', 'Bearer realm="y"'], [("bearer", {"realm": "y"}), ("basic", {"realm": "x"})]),
        (['Basic realm="x", Bearer realm="y"'], [("bearer", {"realm": "y"}), ("basic", {"realm": "x"})]),
        (['bearer Realm=y , error="a \\"b\\""'], [("bearer", {"realm": "y", "error": 'a "b"'})]),
        (["Negotiate"], [("negotiate", {})]),
        (["", "=", '"'], []),
    ],
)
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == [Challenge(*item) for item in expected]


@pytest.mark.parametrize(
    ("scopes", "merged"),
    [
        ([], ()),
        ([PULL, PULL], (PULL,)),
        (["repository:a/b:push", PULL], ("repository:a/b:pull,push",)),
        (["repository:a/b:pull,push repository:c:pull"], ("repository:a/b:pull,push", "repository:c:pull")),
        (["registry:catalog:*"], ("registry:catalog:*",)),
        (["plain"], ("plain",)),
    ],
)
def test_scopes(scopes: list[str], merged: tuple[str, ...]) -> None:
    assert merge_scopes(scopes) == merged


class TokenServer:
    """Answers the requests of an authorizer, and remembers them."""

    def __init__(self, *answers: tuple[int, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, str], dict[str, str]]] = []

    async def __call__(self, method: str, url: str, *, headers: Any, body: bytes | None) -> tuple[int, bytes]:
        await anyio.lowlevel.checkpoint()
        self.asked.append((method, url, dict(headers), dict(parse_qsl((body or b"").decode()))))
        code, value = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return code, value if isinstance(value, bytes) else json.dumps(value).encode()


def authorizer(
    server: TokenServer,
    credentials: Credentials | None = None,
    *,
    origin: str = "https://r.io",
    now: Any = None,
) -> Authorizer:
    async def find() -> Credentials | None:
        return credentials

    made = Authorizer(origin, find, server, clock=now or (lambda: 0.0))
    assert made.challenged([f'Bearer realm="https://auth.r.io/token",service="r.io",scope="{PULL}"'], None)
    return made


async def test_nothing_is_sent_before_it_is_asked_for() -> None:
    async def find() -> Credentials | None:
        raise AssertionError

    assert await Authorizer("https://r.io", find, TokenServer((200, {}))).header([PULL]) is None


async def test_anonymous_tokens() -> None:
    server = TokenServer((200, {"token": "t"}))
    assert await authorizer(server).header([PULL]) == "Bearer t"
    [(method, url, headers, _)] = server.asked
    assert method == "GET"
    assert url.startswith("https://auth.r.io/token?")
    assert parse_qs(url.partition("?")[2]) == {"service": ["r.io"], "scope": [PULL]}
    assert not headers


async def test_by_password_in_oauths_way_and_then_by_refresh_token() -> None:
    server = TokenServer((200, {"access_token": "t", "refresh_token": "again", "expires_in": 300}))
    made = authorizer(server, Credentials("me", SECRET))
    assert await made.header([PULL]) == "Bearer t"
    method, url, _, form = server.asked[0]
    assert (method, url) == ("POST", "https://auth.r.io/token")
    assert form == {
        "client_id": "containerd-aio", "service": "r.io", "scope": PULL, "grant_type": "password", "username": "me",
        "password": SECRET, "access_type": "offline",
    }  # fmt: skip
    assert await made.header(["repository:c/d:pull"]) == "Bearer t"
    form = server.asked[1][3]
    assert form["grant_type"] == "refresh_token"
    assert form["refresh_token"] == "again"
    assert form["scope"] == f"{PULL} repository:c/d:pull"
    assert "password" not in form


async def test_an_identity_token_is_a_refresh_token() -> None:
    server = TokenServer((200, {"access_token": "t"}))
    assert await authorizer(server, Credentials("", "identity")).header([PULL]) == "Bearer t"
    assert server.asked[0][3]["refresh_token"] == "identity"


async def test_a_refresh_token_that_has_ended_is_replaced_by_the_password() -> None:
    server = TokenServer(
        (200, {"access_token": "a", "refresh_token": "old"}), (401, {}), (200, {"access_token": "b"})
    )
    made = authorizer(server, Credentials("me", SECRET))
    await made.header([PULL])
    assert await made.header(["repository:c:pull"]) == "Bearer b"
    assert [asked[3]["grant_type"] for asked in server.asked] == ["password", "refresh_token", "password"]


@pytest.mark.parametrize("code", [400, 401, 404, 405])
async def test_where_oauth_is_not_known_dockers_way_is_gone(code: int) -> None:
    server = TokenServer((code, {}), (200, {"token": "t"}))
    assert await authorizer(server, Credentials("me", SECRET)).header([PULL]) == "Bearer t"
    method, url, headers, _ = server.asked[1]
    assert method == "GET"
    assert headers == {"Authorization": "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()}
    assert parse_qs(url.partition("?")[2])["offline_token"] == ["true"]
    assert SECRET not in url


async def test_a_token_is_kept_for_its_life_and_fetched_once_for_all_who_wait() -> None:
    now = 1000.0
    server = TokenServer((200, {"token": "t", "expires_in": 100}))
    made = authorizer(server, now=lambda: now)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(made.header, [PULL])
    assert len(server.asked) == 1
    now = 1089.0
    await made.header([PULL])
    assert len(server.asked) == 1
    now = 1090.0  # ten seconds before its end it is too old
    await made.header([PULL])
    assert len(server.asked) == 2


async def test_a_token_that_is_refused_is_not_used_again() -> None:
    server = TokenServer((200, {"token": "a"}), (200, {"token": "b"}))
    made = authorizer(server)
    first = await made.header([PULL])
    assert made.challenged(['Bearer realm="https://auth.r.io/token",error="invalid_token"'], first)
    assert await made.header([PULL]) == "Bearer b"


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        ((401, {}), Unauthenticated, "refuses the credentials from the test"),
        ((403, {}), PermissionDenied, "refuses"),
        ((500, {}), Unauthenticated, "status 500"),
        ((200, b"<html>"), Unauthenticated, "not a token"),
        ((200, {"expires_in": 3}), Unauthenticated, "without a token"),
        ((200, {"token": 5}), Unauthenticated, "without a token"),
    ],
)
async def test_token_servers_that_give_none(answer: Any, error: type[ContainerdError], why: str) -> None:
    with pytest.raises(error, match=why) as caught:
        await authorizer(TokenServer(answer), Credentials("me", SECRET, source="the test")).header([PULL])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("realm", ["", "ftp://x", "/token"])
async def test_a_realm_that_is_no_url(realm: str) -> None:
    made = authorizer(TokenServer((200, {"token": "t"})))
    made.challenged([f'Bearer realm="{realm}"'], None)
    with pytest.raises(Unauthenticated, match="names no token server"):
        await made.header([PULL])


async def test_credentials_for_an_encrypted_registry_are_not_sent_in_the_clear() -> None:
    server = TokenServer((200, {"token": "t"}))
    made = authorizer(server, Credentials("me", SECRET))
    made.challenged(['Bearer realm="http://auth.r.io/token"'], None)
    with pytest.raises(Unauthenticated, match="not encrypted: nothing is sent"):
        await made.header([PULL])
    assert not server.asked


async def test_basic() -> None:
    made = authorizer(TokenServer((500, {})), Credentials("me", SECRET, source="the test"))
    assert made.challenged(['Basic realm="x"'], None)
    header = await made.header([PULL])
    assert header == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    with pytest.raises(Unauthenticated, match="refuses the credentials from the test"):
        made.challenged(['Basic realm="x"'], header)
    none = authorizer(TokenServer((500, {})))
    none.challenged(['Basic realm="x"'], None)
    with pytest.raises(Unauthenticated, match="wants a user name and a password"):
        await none.header([PULL])
    assert SECRET not in repr(made)


# -- against a server -------------------------------------------------------------------------------------------


async def test_the_whole_way_with_a_token_server_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    async def wants_token(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == "Bearer good":
            return None
        challenge = f'Bearer realm="{tokens.url}/token",service="x",scope="{PULL}"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(request: web.Request) -> web.Response:
        form = await request.post()
        assert form["password"] == SECRET
        return web.json_response({"access_token": "good"})

    keychain = StaticKeychain({})
    async with FakeRegistry() as tokens, FakeRegistry() as server:
        keychain._credentials[server.host] = Credentials("me", SECRET)
        target = server.add_manifest("a/b", "1", DOCUMENT)
        server.on("HEAD|GET", "", wants_token)
        tokens.on("POST", "/token", token)
        with caplog.at_level(logging.DEBUG):
            async with server.client(keychain=keychain) as registry:
                assert await registry.resolve("a/b", "1") == target
                assert await registry.manifest("a/b", target) == DOCUMENT
        assert len(tokens.requests) == 1
        assert [r.headers.get("Authorization") for r in server.requests] == [
            None,
            "Bearer good",
            "Bearer good",
        ]
        assert "argument" in caplog.text
        assert SECRET not in caplog.text
        assert "good" not in caplog.text


async def test_a_token_server_may_not_send_the_password_on() -> None:
    async with FakeRegistry() as elsewhere, FakeRegistry() as server:
        challenge = f'Bearer realm="{server.url}/token"'
        server.on("HEAD", "", status(401, WWW_Authenticate=challenge))
        server.on("POST", "/token", status(307, Location=f"{elsewhere.url}/token"))
        keychain = StaticKeychain({server.host: Credentials("me", SECRET)})
        async with server.client(keychain=keychain) as registry:
            with pytest.raises(FailedPrecondition, match="no credentials are sent there"):
                await registry.resolve("a/b", "1")
        assert not elsewhere.requests


async def test_a_registry_that_is_never_content_is_given_up() -> None:
    async with FakeRegistry() as server:
        server.on("HEAD|GET", "/v2/", status(401, WWW_Authenticate=f'Bearer realm="{server.url}/token"'))

        async def token(_: web.Request) -> web.Response:
            return web.json_response({"token": "t"})

        server.on("GET", "/token", token)
        async with server.client() as registry:
            with pytest.raises(Unauthenticated, match="status 401"):
                await registry.resolve("a/b", "1")
        assert server.count("HEAD", "manifests") == 3
