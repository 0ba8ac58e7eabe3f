"""Addresses, and what is said when nobody usable answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd.services.version.v1 import VersionStub
from containerd_aio.errors import ConnectError, InvalidArgument


@pytest.mark.parametrize(
    ("text", "path", "host", "port"),
    [
        ("/run/containerd/containerd.sock", "/run/containerd/containerd.sock", "", 0),
        ("unix:///a/b.sock", "/a/b.sock", "", 0),
        ("unix:/a/b.sock", "/a/b.sock", "", 0),
        ("@name", "\0name", "", 0),
        ("unix:@name", "\0name", "", 0),
        ("unix-abstract:name", "\0name", "", 0),
        ("tcp://127.0.0.1:8080", None, "127.0.0.1", 8080),
        ("tcp://[::1]:8080", None, "::1", 8080),
    ],
)
def test_address_forms(text: str, path: str | None, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.path, address.host, address.port) == (path, host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "@",
        "relative.sock",
        "unix://relative",
        "tcp://host",
        "tcp://host:0",
        "tcp://:1",
        "http://x:1",
    ],
)
def test_bad_addresses_are_refused_with_a_cure(text: str) -> None:
    with pytest.raises(InvalidArgument, match="address"):
        Address.parse(text)


def test_a_path_too_long_for_a_unix_socket_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="107"):
        Address.parse("/" + "x" * 200)


async def _dial(address: str, connect_timeout: float = 5) -> ConnectError:
    channel = Channel(Address.parse(address), timeout=5, connect_timeout=connect_timeout)
    try:
        with pytest.raises(ConnectError) as caught:
            await VersionStub(channel).version()
    finally:
        channel.close()
    assert caught.value.address == address
    assert address in str(caught.value)
    return caught.value


async def test_a_missing_socket_says_so(tmp_path: Path) -> None:
    assert (await _dial(str(tmp_path / "no.sock"))).reason == "missing"


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    error = await _dial(str(tmp_path / "no" / "c.sock"))
    assert f"{tmp_path}/no does not exist" in str(error)


async def test_a_stale_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert (await _dial(str(path))).reason == "refused"


async def test_an_abstract_socket_nobody_listens_on(tmp_path: Path) -> None:
    assert (await _dial(f"@containerd-aio-test-{os.getpid()}")).reason == "refused"


async def test_a_file_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    assert (await _dial(str(tmp_path / "file"))).reason == "not-containerd"


async def test_a_server_that_talks_something_else(tmp_path: Path) -> None:
    path = str(tmp_path / "http.sock")

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        assert (await _dial(path)).reason == "not-containerd"
        group.cancel_scope.cancel()


async def test_a_server_that_closes_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "close.sock")

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await stream.aclose()

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        assert (await _dial(path)).reason == "not-containerd"
        group.cancel_scope.cancel()


async def test_g8_a_silent_peer_ends_the_dial_within_its_deadline(tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        with anyio.fail_after(5):
            error = await _dial(path, connect_timeout=0.05)
    assert error.reason == "not-serving"
    assert "frozen" in str(error)


@pytest.mark.skipif(
    os.geteuid() == 0, reason="root may open every socket; the real-daemon test drops its rights"
)
async def test_a_socket_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        path.chmod(0)
        assert (await _dial(str(path))).reason == "permission"


def test_a_permission_error_names_the_cure() -> None:
    from containerd_aio._transport.dial import explain_dial_failure

    error = explain_dial_failure(Address.parse("/run/x.sock"), PermissionError(13, "Permission denied"))
    assert error.reason == "permission"
    assert "root" in str(error)
