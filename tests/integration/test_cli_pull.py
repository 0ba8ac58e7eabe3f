"""``containerd-aio pull`` and ``push``."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_aio import Client
from containerd_aio.daemon import Daemon
from containerd_aio.testing.images import Variant
from containerd_aio.testing.registry import RegistryServer
from tests.integration.cli_support import CLI
from tests.integration.registry_support import PASSWORD, add_image, layers, unique_repository


@pytest.fixture
def cli(daemon: Daemon, namespace: str) -> CLI:
    return CLI(daemon.address, namespace)


async def test_push_and_pull(
    cli: CLI, daemon: Daemon, namespace: str, registry: RegistryServer, tmp_path: Path
) -> None:
    name = f"{unique_repository(registry.host)}:1"
    async with Client(daemon.address, namespace=namespace) as client:
        image = await add_image(
            client, tmp_path, "docker.io/library/mine:1", Variant(layers(100_000, seed=5))
        )
        line = f"{name} {image.target.digest}\n".encode()
        pushed = await cli("push", "--via", "auto", name, "docker.io/library/mine:1")
        assert (pushed.returncode, pushed.stdout) == (0, line)
        assert f"{name}: done" in pushed.stderr.decode()
        await image.delete(sync=True)
        pulled = await cli("pull", "--via", "client", name)
        assert (pulled.returncode, pulled.stdout) == (0, line)
        told = pulled.stderr.decode().splitlines()
        assert told[0] == f"{name}: resolving"
        assert told[-1] == f"{name}: done"
        assert any(text.endswith("unpacked 100.4 kB") or ": unpacked " in text for text in told)
        assert await (await client.image(name)).is_unpacked()
        again = await cli("pull", "--quiet", name)
        assert (again.returncode, again.stdout, again.stderr) == (0, line, b"")


async def test_failures_are_one_line(cli: CLI, registry: RegistryServer, containerd_version: str) -> None:
    none = await cli("pull", f"{registry.host}/none:1")
    assert none.returncode == 1
    *told, last = none.stderr.decode().splitlines()
    assert last.startswith("containerd-aio: ")
    assert ("not found" if containerd_version == "2.1" else "status 404") in last
    assert not any(line.startswith((":", "containerd-aio")) for line in told)
    secret = await cli(
        "--debug", "pull", "--user", "me", f"{registry.host}/none:1", stdin=PASSWORD.encode() + b"\n"
    )
    assert secret.returncode == 1
    assert PASSWORD.encode() not in secret.stderr
