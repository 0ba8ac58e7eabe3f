"""What a daemon does not have is asked for once per connection, and the error says since when there is it."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_aio._transport.absence import absent, explain
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.errors import Unimplemented
from containerd_aio.services.sandboxes import SandboxController, SandboxStore
from containerd_aio.services.stubs import Services
from containerd_aio.testing import FakeContainerd

STORE = "/containerd.services.sandbox.v1.Store"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("unknown service containerd.services.sandbox.v1.Store", STORE),
        (
            "unknown method Metrics for service containerd.services.sandbox.v1.Controller",
            "/containerd.services.sandbox.v1.Controller/Metrics",
        ),
        ("method Platform not implemented", None),
        ("service containerd.runtime.sandbox.v1.Sandbox", None),
        ("the snapshotter knows no such thing: unknown service x", None),
        ("", None),
        (None, None),
    ],
)
def test_what_a_refusal_says(text: str | None, name: str | None) -> None:
    """A shim's or a plugin's own UNIMPLEMENTED is about one thing asked of it, not about the daemon."""
    assert absent(text) == name


def test_the_text_names_the_release() -> None:
    text = explain(STORE, "/run/c.sock")
    assert "/run/c.sock has no service containerd.services.sandbox.v1.Store" in text
    assert "containerd 1.7" in text
    assert "2.0" in explain("/containerd.services.sandbox.v1.Controller/Metrics", "x")
    assert "came with" not in explain("/my.own.Service", "x")


async def test_it_is_asked_for_once_per_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    seen: list[str] = []
    connections = Connections(
        Address.parse(path), timeout=5, connect_timeout=5, hook=lambda call: seen.append(call.method)
    )
    services = Services(connections, "default")
    store = SandboxStore(services)
    sent = 0
    try:
        async with FakeContainerd(path, release="1.6"):
            for _ in range(3):
                with pytest.raises(
                    Unimplemented, match=r"no service .*sandbox\.v1\.Store: it came with containerd 1\.7"
                ) as caught:
                    await store.get("x")
                assert caught.value.method == f"{STORE}/Get"
            with pytest.raises(Unimplemented, match=r"sandbox\.v1\.Controller"):
                await SandboxController(services).status("x")
            protocol = connections.rpc._protocol
            assert protocol is not None
            sent = protocol.processor.connection.streams_started
            with pytest.raises(Unimplemented):
                await store.list()
            assert protocol.processor.connection.streams_started == sent  # nothing was sent
    finally:
        connections.close()


async def test_another_connection_is_asked_again(tmp_path: Path) -> None:
    """The daemon may be a newer one by then."""
    path = str(tmp_path / "s")
    connections = Connections(Address.parse(path), timeout=5, connect_timeout=5)
    store = SandboxStore(Services(connections, "default"))
    try:
        for _ in range(2):
            async with FakeContainerd(path, release="1.6"):
                with pytest.raises(Unimplemented):
                    await store.get("x")
                protocol = connections.rpc._protocol
                assert protocol is not None
                assert protocol.processor.connection.streams_started == 1
    finally:
        connections.close()
