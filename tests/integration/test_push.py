"""Pushing from real daemons to real registries."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from containerd_aio import Client
from containerd_aio.daemon import Daemon
from containerd_aio.distribution.progress import Action, ProgressEvent
from containerd_aio.distribution.push import nearest
from containerd_aio.distribution.registry import Registry
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.testing.images import Variant
from containerd_aio.testing.registry import RegistryServer
from tests.integration.image_support import leftovers
from tests.integration.registry_support import ANONYMOUS, add_image, layers, unique_repository


@pytest.fixture
async def client(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    """A client of the shared daemon, in a namespace of its own."""
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


def fresh(*sizes: int, platform: str | None = None) -> Variant:
    """An image that no registry has seen."""
    return Variant(layers(*sizes, seed=secrets.randbelow(1 << 30)), platform=platform)


@pytest.mark.shows("seed:containerd.Client.Push")
async def test_ctr_pulls_what_was_pushed(
    client: Client, registry: RegistryServer, daemon: Daemon, tmp_path: Path, ctr_binary: str
) -> None:
    name = f"{unique_repository(registry.host)}:1"
    image = await add_image(client, tmp_path, name, fresh(400_000, 1000))
    assert await client.push(name, keychain=ANONYMOUS) == image.target
    other = f"{client.namespace}-ctr"
    base = [ctr_binary, "-a", daemon.address, "-n", other]
    await anyio.run_process([*base, "images", "pull", "--plain-http", name])
    async with Client(daemon.address, namespace=other) as theirs:
        pulled = await theirs.image(name)
        assert pulled.target.digest == image.target.digest
        assert await pulled.is_unpacked()
        await pulled.delete(sync=True)
        await theirs.namespaces.delete(other)


async def test_what_ctr_pushed_is_pulled(
    client: Client, registry: RegistryServer, daemon: Daemon, tmp_path: Path, ctr_binary: str
) -> None:
    name = f"{unique_repository(registry.host)}:1"
    image = await add_image(client, tmp_path, name, fresh(400_000, 1000))
    base = [ctr_binary, "-a", daemon.address, "-n", client.namespace]
    await anyio.run_process([*base, "images", "push", "--plain-http", name])
    await image.delete(sync=True)
    pulled = await client.pull(name, keychain=ANONYMOUS)
    assert pulled.target.digest == image.target.digest
    assert await pulled.is_unpacked()


async def test_several_platforms_all_or_one(client: Client, registry: RegistryServer, tmp_path: Path) -> None:
    repository = unique_repository(registry.host)
    platforms = ("linux/amd64", "linux/arm64")
    image = await add_image(
        client, tmp_path, f"{repository}:all", *(fresh(1000, platform=p) for p in platforms)
    )
    assert (await client.push(f"{repository}:all", keychain=ANONYMOUS)).digest == image.target.digest
    one = await client.push(f"{repository}:one", image, platform="linux/arm64", keychain=ANONYMOUS)
    assert one.digest != image.target.digest
    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        path = repository.partition("/")[2]
        assert (await opened.resolve(path, "all")).digest == image.target.digest
        assert (await opened.resolve(path, "one")).digest == one.digest
    await image.delete(sync=True)
    await client.pull(f"{repository}:all", platform="linux/amd64", keychain=ANONYMOUS)
    # Half of it is here: nothing is sent, and it is said what is missing.
    with pytest.raises(NotFound, match=r"is not here: .*\(linux/arm64\); push one platform"):
        await client.push(f"{repository}:again", await client.image(f"{repository}:all"), keychain=ANONYMOUS)
    with pytest.raises(NotFound, match="is not here"):
        await client.push(
            f"{repository}:again",
            await client.image(f"{repository}:all"),
            platform="linux/arm64",
            keychain=ANONYMOUS,
        )
    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        assert sorted(await opened.tags(path)) == ["all", "one"]


async def test_what_is_there_is_not_sent_again_and_what_is_near_is_mounted(
    client: Client, registry: RegistryServer, tmp_path: Path
) -> None:
    first, second = unique_repository(registry.host), unique_repository(registry.host)
    image = await add_image(client, tmp_path, f"{first}:1", fresh(200_000, 1000))
    actions: dict[str, list[Action]] = {"first": [], "again": [], "other": []}

    async def push(key: str, name: str) -> None:
        def progress(event: ProgressEvent) -> None:
            if event.action not in {Action.WAITING, Action.UPLOADING}:
                actions[key].append(event.action)

        await client.push(name, image, keychain=ANONYMOUS, progress=progress)

    await push("first", f"{first}:1")
    await push("again", f"{first}:1")
    await image.delete(sync=True)
    # Only what was pulled is known to be there, hence mounted.
    image = await client.pull(f"{first}:1", keychain=ANONYMOUS)
    await push("other", f"{second}:1")
    assert actions["first"] == [Action.DONE] * 5
    assert actions["again"] == [Action.EXISTS] * 4 + [Action.DONE]
    assert actions["other"] == [Action.MOUNTED] * 3 + [Action.DONE] * 2


async def test_by_digest_and_by_another_name(
    client: Client, registry: RegistryServer, tmp_path: Path
) -> None:
    repository = unique_repository(registry.host)
    image = await add_image(client, tmp_path, "docker.io/library/mine:1", fresh(1000))
    by_digest = f"{repository}@{image.target.digest}"
    await client.push(by_digest, image, keychain=ANONYMOUS)
    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        path = repository.partition("/")[2]
        assert (await opened.resolve(path, image.target.digest)).size == image.target.size
    pulled = await client.pull(by_digest, keychain=ANONYMOUS)
    assert pulled.name == by_digest
    with pytest.raises(InvalidArgument, match="names another digest"):
        await client.push(f"{repository}@sha256:{'0' * 64}", image, keychain=ANONYMOUS)
    with pytest.raises(NotFound):
        await client.push(f"{repository}:none", keychain=ANONYMOUS)
    with pytest.raises(InvalidArgument, match="neither an index nor a manifest"):
        await client.push(f"{repository}:x", (await image.manifest()).config, keychain=ANONYMOUS)


async def test_a_cancelled_push_leaves_nothing_here_and_no_name_there(
    client: Client, registry: RegistryServer, tmp_path: Path
) -> None:
    repository = unique_repository(registry.host)
    image = await add_image(client, tmp_path, f"{repository}:1", fresh(3_000_000))
    with anyio.CancelScope() as scope:

        def progress(event: ProgressEvent) -> None:
            if event.action is Action.UPLOADING:
                scope.cancel()

        await client.push(f"{repository}:1", image, keychain=ANONYMOUS, progress=progress)
    assert scope.cancelled_caught
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}
    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        with pytest.raises(NotFound):
            await opened.resolve(repository.partition("/")[2], "1")
    await client.push(f"{repository}:1", image, keychain=ANONYMOUS)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], []),
        (["a/b"], []),
        (["x/y", "a/c"], ["a/c"]),
        (["a/b/c", "a/c"], ["a/b/c"]),
        (["z", "x"], ["x"]),
    ],
)
def test_the_nearest_repository_is_mounted_from(sources: list[str], expected: list[str]) -> None:
    assert nearest("a/b", sources) == expected
