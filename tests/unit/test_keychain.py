"""Where credentials come from, and that they go nowhere else."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from containerd_aio.distribution.keychain import (
    ChainedKeychain,
    Credentials,
    FileKeychain,
    StaticKeychain,
    default_paths,
    find_credentials,
    keychain_of,
)
from containerd_aio.errors import FailedPrecondition, InvalidArgument

SECRET = "hush-hush"


def auth(user: str, secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def keychain(folder: Path, value: Any, name: str = "config.json") -> FileKeychain:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return FileKeychain(path)


def helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("hub.example.com", "hub.example.com"),
        ("hub.example.com:5000", "hub.example.com:5000"),
        ("https://hub.example.com", "hub.example.com"),
        ("https://hub.example.com/v1/", "hub.example.com"),
        ("http://localhost:5000/v2/", "localhost:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
        ("index.docker.io/v1/", "docker.io"),
    ],
)
async def test_keys_of_auths(tmp_path: Path, key: str, registry: str) -> None:
    chain = keychain(tmp_path, {"auths": {key: auth("me"), "other.example.com": auth("other")}})
    found = await chain.credentials(registry)
    assert found is not None
    assert (found.username, found.secret) == ("me", SECRET)
    assert str(tmp_path / "config.json") in found.source
    assert await chain.credentials("nobody.example.com") is None


async def test_podmans_entries_for_a_path_suit_the_repository(tmp_path: Path) -> None:
    auths = {"quay.io": auth("host"), "quay.io/team": auth("team"), "quay.io/team/app": auth("app")}
    chain = keychain(tmp_path, {"auths": auths}, "auth.json")
    for repository, user in {
        "": "host",
        "other/app": "host",
        "team/x": "team",
        "team/app": "app",
        "team/app/y": "app",
        "team2/x": "host",
    }.items():
        found = await chain.credentials("quay.io", repository)
        assert found is not None
        assert found.username == user


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "me", "password": SECRET}, Credentials("me", SECRET)),
        (auth("me", "a:b"), Credentials("me", "a:b")),
        ({**auth("me"), "identitytoken": "it"}, Credentials("", "it")),
        ({"registrytoken": "rt"}, Credentials(bearer="rt")),
        (auth("<token>", "it"), Credentials("", "it")),
    ],
)
async def test_kinds_of_entries(tmp_path: Path, entry: dict[str, str], expected: Credentials) -> None:
    found = await keychain(tmp_path, {"auths": {"r.io": entry}}).credentials("r.io")
    assert found is not None
    assert (found.username, found.secret, found.bearer) == (
        expected.username,
        expected.secret,
        expected.bearer,
    )


async def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    answer = json.dumps({"ServerURL": "x", "Username": "helped", "Secret": SECRET})
    helper(tmp_path, "one", f"read server; echo \"$server\" >> {tmp_path}/asked; echo '{answer}'")
    helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    value = {
        "auths": {"stored.io": {}, "plain.io": auth("me")},
        "credHelpers": {"one.io": "one", "none.io": "none"},
        "credsStore": "one",
    }
    chain = keychain(tmp_path, value)
    for registry, user in {
        "one.io": "helped",
        "stored.io": "helped",
        "plain.io": "me",
        "docker.io": "helped",
    }.items():
        found = await chain.credentials(registry)
        assert found is not None
        assert found.username == user
    assert await chain.credentials("none.io") is None
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["one.io", "stored.io", "https://index.docker.io/v1/"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "not on PATH"),
        ("echo the keyring is locked; exit 1", "the keyring is locked"),
        ("exit 3", "exit code 3"),
        (f"echo {SECRET}", "not JSON with Username and Secret"),
    ],
)
async def test_helpers_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, why: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if script is not None:
        helper(tmp_path, "bad", script)
    with pytest.raises(FailedPrecondition, match=why) as caught:
        await keychain(tmp_path, {"credsStore": "bad"}).credentials("r.io")
    assert "docker-credential-bad" in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_a_helper_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "docker-credential-bad").write_text("")
    with pytest.raises(
        FailedPrecondition, match="docker-credential-bad, which cannot be run: Permission denied"
    ):
        await keychain(tmp_path, {"credsStore": "bad"}).credentials("r.io")


@pytest.mark.parametrize(
    "value",
    [
        "{",
        "[" * 100_000,
        "[]",
        {"auths": {"r.io": {"auth": "***"}}},
        {"auths": {"r.io": {"auth": base64.b64encode(SECRET.encode()).decode()}}},
        {"credsStore": "../evil"},
    ],
)
async def test_malformed_files_are_named_and_not_quoted(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.json") as caught:
        await keychain(tmp_path, value).credentials("r.io")
    assert SECRET not in repr(caught.value.__cause__ or caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None or value == "{"


async def test_files_that_are_not_there_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps({"auths": {"r.io": auth("a")}}))
    (tmp_path / "b").write_text(json.dumps({"auths": {"r.io": auth("b"), "s.io": auth("b")}}))
    chain = FileKeychain(tmp_path / "none", tmp_path / "a" / "none", tmp_path / "a", tmp_path / "b")
    for registry, user in {"r.io": "a", "s.io": "b"}.items():
        found = await chain.credentials(registry)
        assert found is not None
        assert found.username == user


def test_the_usual_places() -> None:
    assert default_paths({"HOME": "/h"}) == [
        Path("/h/.docker/config.json"),
        Path("/h/.config/containers/auth.json"),
    ]
    assert default_paths(
        {"HOME": "/h", "DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/r", "XDG_RUNTIME_DIR": "/x"}
    ) == [
        Path("/r"),
        Path("/d/config.json"),
        Path("/x/containers/auth.json"),
        Path("/h/.config/containers/auth.json"),
    ]


async def test_chained_and_given_credentials() -> None:
    one, two = Credentials("one", SECRET), Credentials("two", SECRET)
    chain = ChainedKeychain(StaticKeychain({"a.io": one}), StaticKeychain({"a.io": two, "docker.io": two}))
    assert await chain.credentials("a.io") is one
    assert await chain.credentials("registry-1.docker.io") is two
    assert await chain.credentials("b.io") is None
    assert await keychain_of(one, "c.io").credentials("c.io") is one
    with pytest.raises(InvalidArgument, match="give a Keychain or Credentials"):
        keychain_of(("me", SECRET), "c.io")  # type: ignore[arg-type]


async def test_the_log_has_the_source_and_nothing_has_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    given = Credentials("me", SECRET, bearer=SECRET, source="the test")
    assert SECRET not in repr(given)
    with caplog.at_level(logging.DEBUG):
        await find_credentials(StaticKeychain({"a.io": given}), "a.io")
        await find_credentials(StaticKeychain({}), "b.io")
    assert "the test" in caplog.text
    assert "anonymous" in caplog.text
    assert SECRET not in caplog.text
