"""Pulling on real daemons, from real registries and from one that misbehaves."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from containerd_aio import Client
from containerd_aio.daemon import Daemon
from containerd_aio.distribution import _leases
from containerd_aio.distribution.fetch import FetchLimits
from containerd_aio.distribution.hosts import RegistryHost
from containerd_aio.distribution.progress import Action, Progress, ProgressEvent
from containerd_aio.errors import (
    ContainerdError,
    DataLoss,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
    Unknown,
)
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import Leases
from containerd_aio.services.snapshots import Snapshotter
from containerd_aio.testing.images import Variant
from containerd_aio.testing.registry import RegistryServer
from tests.integration.image_support import collect_garbage, eventually, leftovers
from tests.integration.registry_support import ANONYMOUS, add_image, layers, unique_repository
from tests.unit.fake_registry import FakeRegistry, cut_after, digest_of, status

PLATFORMS = ("linux/amd64", "linux/arm64", "linux/s390x")


@pytest.fixture
async def client(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    """A client of the shared daemon, in a namespace of its own."""
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


@pytest.fixture(scope="session")
def seeded() -> dict[str, Any]:
    """What was pushed already: name -> target."""
    return {}


@pytest.fixture
async def pushed(registry: RegistryServer, daemon: Daemon, tmp_path: Path, seeded: dict[str, Any]) -> str:
    """The name of an image for three platforms at the real registry, pushed once by the first daemon."""
    if "name" not in seeded:
        name = f"{unique_repository(registry.host)}:1"
        variants = [Variant(layers(300_000, 2000, seed=n), platform=p) for n, p in enumerate(PLATFORMS)]
        async with Client(daemon.address, namespace=f"seed-{secrets.token_hex(3)}") as client:
            image = await add_image(client, tmp_path, name, *variants)
            await client.push(name, keychain=ANONYMOUS)
            seeded.update(name=name, target=image.target)
            await image.delete(sync=True)
            await client.namespaces.delete(client.namespace)
    return str(seeded["name"])


async def digests(client: Client) -> dict[str, dict[str, str]]:
    return {i.digest: dict(i.labels) for i in await ContentStore(client.services).list()}


async def complete(client: Client, name: str) -> None:
    """The image can be used, nothing is left over, and a collection takes nothing away."""
    await collect_garbage(client.services)
    image = await client.image(name)
    assert await image.is_unpacked()
    assert (await image.check()).complete
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}


@pytest.mark.shows(
    "seed:containerd.Client.Pull",
    "seed:containerd.WithPullUnpack",
    "seed:containerd.RemoteContext",
    "seed:containerd.RemoteOpts",
    "seed:containerd.RemoteContext.Unpack",
    "go:TestImagePull",
    "go:TestImagePullWithDistSourceLabel",
)
async def test_an_image_is_pulled_and_unpacked_and_survives_a_collection(client: Client, pushed: str) -> None:
    image = await client.pull(pushed, via="client", keychain=ANONYMOUS)
    assert image.name == pushed
    await complete(client, pushed)
    found = await digests(client)
    # The index names three manifests by labels; one of them is here, with its config and its two layers.
    labels = found[image.target.digest]
    assert len([key for key in labels if key.startswith("containerd.io/gc.ref.content.m.")]) == 3
    assert len(found) == 5
    repository = pushed.partition("/")[2].rpartition(":")[0]
    for labels in found.values():
        assert labels["containerd.io/distribution.source.127.0.0.1"] == repository
    await image.delete(sync=True)
    assert not await digests(client)
    assert not await Snapshotter(client.services).list()


async def test_pulling_again_fetches_nothing_and_changes_nothing(client: Client, pushed: str) -> None:
    first = await client.pull(pushed, via="client", keychain=ANONYMOUS, labels={"a": "1"})
    events: list[ProgressEvent] = []
    again = await client.pull(pushed, via="client", keychain=ANONYMOUS, progress=events.append)
    assert again.target == first.target
    assert again.labels == {"a": "1"}
    assert Action.DOWNLOADING not in {event.action for event in events}
    await complete(client, pushed)


@pytest.mark.parametrize("via", ["auto", "daemon"])
async def test_the_daemon_pulls_where_it_can(
    client: Client, pushed: str, containerd_version: str, via: Any
) -> None:
    events: list[ProgressEvent] = []
    if via == "daemon" and containerd_version != "2.1":  # 1.7 would have to be configured for plain HTTP
        with pytest.raises(Unimplemented if containerd_version == "1.6" else Unknown):
            await client.pull(pushed, keychain=ANONYMOUS, via=via)
        return
    image = await client.pull(pushed, keychain=ANONYMOUS, via=via, progress=events.append)
    assert image.name == pushed
    assert events[-1] == ProgressEvent(Action.DONE, pushed, target=image.target)
    by_daemon = not any(event.action is Action.RESOLVED for event in events)
    assert by_daemon == (containerd_version == "2.1")
    await complete(client, pushed)


async def test_what_only_this_process_can_do_is_not_asked_of_the_daemon(client: Client, pushed: str) -> None:
    with pytest.raises(InvalidArgument, match="a daemon cannot pull with all_metadata, discard_layers"):
        await client.pull(pushed, all_metadata=True, discard_layers=True, via="daemon")
    with pytest.raises(InvalidArgument, match="via is 'ship'"):
        await client.pull(pushed, via="ship")  # type: ignore[arg-type]
    await client.pull(pushed, discard_layers=True, keychain=ANONYMOUS)
    await collect_garbage(client.services)
    assert len(await digests(client)) == 5 - 2


@pytest.mark.shows("seed:containerd.WithPullSnapshotter", "seed:containerd.RemoteContext.Snapshotter")
async def test_another_platform_into_another_snapshotter(client: Client, pushed: str) -> None:
    image = await client.pull(
        pushed, via="client", platform="linux/s390x", snapshotter="native", keychain=ANONYMOUS
    )
    assert str(image.platform) == "linux/s390x"
    assert (await image.config())["architecture"] == "s390x"
    assert await image.is_unpacked("native")
    assert not await image.is_unpacked("overlayfs")
    with pytest.raises(NotFound, match="linux/amd64, linux/arm64, linux/s390x"):
        await client.pull(pushed, via="client", platform="linux/riscv64", keychain=ANONYMOUS)


@pytest.mark.shows("go:TestImagePullAllPlatforms", "go:TestImagePullSomePlatforms")
async def test_fetching_some_platforms_all_or_only_their_metadata(client: Client, pushed: str) -> None:
    await client.fetch(pushed, platform=["linux/amd64", "linux/arm64"], keychain=ANONYMOUS)
    assert len(await digests(client)) == 1 + 2 * 4
    await client.fetch(pushed, all_platforms=True, keychain=ANONYMOUS)
    assert len(await digests(client)) == 1 + 3 * 4
    assert not await Snapshotter(client.services).list()
    with pytest.raises(InvalidArgument, match="not both"):
        await client.fetch(pushed, platform="linux/amd64", all_platforms=True, keychain=ANONYMOUS)
    await (await client.image(pushed)).delete(sync=True)
    await client.pull(pushed, via="client", all_metadata=True, keychain=ANONYMOUS)
    assert len(await digests(client)) == 1 + 3 * 2 + 2


@pytest.mark.shows("go:TestImagePullWithDiscardContent")
async def test_without_the_packed_layers(client: Client, pushed: str) -> None:
    image = await client.pull(pushed, via="client", discard_layers=True, keychain=ANONYMOUS)
    await collect_garbage(client.services)
    assert await image.is_unpacked()
    assert len(await digests(client)) == 3
    # What is unpacked is not fetched again.
    await client.pull(pushed, via="client", discard_layers=True, keychain=ANONYMOUS)
    await collect_garbage(client.services)
    assert len(await digests(client)) == 3
    with pytest.raises(NotFound, match="cannot be pushed"):
        await client.push(pushed, platform="linux/amd64", keychain=ANONYMOUS)
    with pytest.raises(InvalidArgument, match="needs unpack=True"):
        await client.pull(pushed, discard_layers=True, unpack=False, keychain=ANONYMOUS)


@pytest.mark.shows("seed:containerd.WithImageHandler", "seed:containerd.RemoteContext.BaseHandlers")
async def test_handlers_and_progress_see_every_object(client: Client, pushed: str) -> None:
    seen: list[str] = []

    async def handler(target: Any) -> None:
        seen.append(target.digest)

    last: dict[str, ProgressEvent] = {}

    async def watch(progress: Progress) -> None:
        async for event in progress:
            last[event.name] = event

    async with anyio.create_task_group() as tasks:
        async with Progress() as progress:
            tasks.start_soon(watch, progress)
            await client.pull(pushed, via="client", keychain=ANONYMOUS, handler=handler, progress=progress)
    assert set(seen) == set(await digests(client))
    assert last.keys() == {pushed, *seen}
    assert last == progress.state
    assert {event.action for event in last.values()} == {Action.DONE, Action.UNPACKED}
    assert all(event.offset == event.total for event in last.values())


async def test_ctr_uses_what_was_pulled_and_the_other_way_round(
    client: Client, daemon: Daemon, pushed: str, ctr_binary: str
) -> None:
    base = [ctr_binary, "-a", daemon.address, "-n", client.namespace]
    image = await client.pull(pushed, via="client", keychain=ANONYMOUS)
    listed = (await anyio.run_process([*base, "images", "check"])).stdout.decode()
    assert "complete (3/3)" in listed
    await image.delete(sync=True)
    await anyio.run_process([*base, "images", "pull", "--plain-http", pushed])
    theirs = await client.image(pushed)
    assert theirs.target == image.target
    assert await theirs.is_unpacked()
    assert await digests(client)
    events: list[ProgressEvent] = []
    await client.pull(pushed, via="client", keychain=ANONYMOUS, progress=events.append)
    assert Action.DOWNLOADING not in {event.action for event in events}


async def test_what_cannot_be_pulled_leaves_nothing(client: Client, registry: RegistryServer) -> None:
    for name, error in {"no host/x": InvalidArgument, f"{registry.host}/none:1": NotFound}.items():
        with pytest.raises(error):
            await client.pull(name, keychain=ANONYMOUS)
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}


# -- a registry that misbehaves ---------------------------------------------------------------------------------


class Shop(FakeRegistry):
    """A registry in memory that has images of ours."""

    def offer(self, repository: str, tag: str, *contents: bytes) -> str:
        """Add an image whose layers are plain tars of these files, and return its name."""
        from containerd_aio.testing.images import layer_tar

        tars = [layer_tar({f"file-{digest_of(c)[-6:]}": c}) for c in contents]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(t) for t in tars]},
        }
        config_target = self.add(json.dumps(config).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {**config_target.to_json(), "mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": [self.add(t).to_json() for t in tars],
        }
        self.add_manifest(repository, tag, json.dumps(manifest).encode())
        return f"{self.host}/{repository}:{tag}"

    def hosts(self, _: str) -> list[RegistryHost]:
        return [RegistryHost(f"{self.url}/v2")]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as opened:
        yield opened


BIG = bytes(range(256)) * 8000


async def test_twenty_pulls_at_once_fetch_each_blob_once(client: Client, shop: Shop) -> None:
    shared = [b"base" * 1000, b"middle" * 1000]
    names = [shop.offer("a/b", str(n), *shared, b"top %d" % n) for n in range(20)]
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(lambda name=name: client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS))
    fetched = [r.path for r in shop.requests if r.method == "GET"]
    assert len(fetched) == len(set(fetched))
    assert len([path for path in fetched if "/blobs/" in path]) == 2 + 20 + 20
    for name in names:
        assert await (await client.image(name)).is_unpacked()
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}


async def test_a_registry_that_cuts_is_resumed(client: Client, shop: Shop) -> None:
    name = shop.offer("a/b", "1", BIG, b"small")
    layer = max(shop.blobs.values(), key=len)
    shop.on("GET", f"blobs/{digest_of(layer)}", cut_after(layer, 900_000), times=2)
    await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
    assert shop.count("GET", digest_of(layer)) == 3
    await complete(client, name)


async def test_a_registry_that_is_busy_and_keeps_its_blobs_elsewhere(client: Client, shop: Shop) -> None:
    name = shop.offer("a/b", "1", BIG, b"small")
    async with FakeRegistry() as storage:
        storage.blobs, shop.blobs = shop.blobs, {}

        async def elsewhere(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{storage.url}{request.path}"})

        shop.on("HEAD", "manifests", status(429, Retry_After="0"), times=2)
        shop.on("GET", "manifests", status(503), times=1)
        shop.on("GET", "blobs", status(500), times=1)
        shop.on("GET", "blobs", elsewhere)
        await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
        assert storage.count("GET", "blobs") == 3
    await complete(client, name)


async def test_large_layers_come_in_ranges(
    client: Client, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containerd_aio.distribution.fetch.PARALLEL_FROM", 1 << 20)
    monkeypatch.setattr("containerd_aio.distribution._blob.RANGE_SIZE", 300_000)
    name = shop.offer("a/b", "1", BIG)
    await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS, limits=FetchLimits(ranges=3))
    assert sum("Range" in r.headers for r in shop.requests) >= 7
    await complete(client, name)
    with pytest.raises(InvalidArgument, match="downloads is 0"):
        await client.pull(name, limits=FetchLimits(downloads=0))


@pytest.mark.shows("go:TestImagePullWithConcurrencyLimit")
async def test_limits_are_kept(client: Client, shop: Shop) -> None:
    name = shop.offer("a/b", "1", *(b"layer %d" % n for n in range(8)))
    running = most = 0

    async def slowly(_: web.Request) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        running -= 1

    shop.on("GET", "blobs", slowly)
    await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS, limits=FetchLimits(downloads=2))
    assert most <= 2


@pytest.mark.parametrize("fault", ["other", "shorter", "longer", "missing", "manifest"])
async def test_lies_are_found_out_and_leave_nothing(client: Client, shop: Shop, fault: str) -> None:
    name = shop.offer("a/b", "1", BIG)
    digest, layer = max(shop.blobs.items(), key=lambda item: len(item[1]))
    if fault == "manifest":
        (_, reference), (kind, data) = next(i for i in shop.manifests.items() if ":" in i[0][1])
        shop.manifests["a/b", reference] = (kind, data.replace(b"2", b"3", 1))
    else:
        shop.blobs[digest] = {"other": b"x" + layer[1:], "shorter": layer[:-1], "longer": layer + b"x"}.get(
            fault, b""
        )
        if fault == "missing":
            del shop.blobs[digest]
    with pytest.raises(NotFound if fault == "missing" else DataLoss) as caught:
        await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
    assert "127.0.0.1" in str(caught.value)
    await collect_garbage(client.services)
    assert await client.images() == []
    await eventually(lambda: _is_empty(client))


async def _is_empty(client: Client) -> bool:
    left = await leftovers(client.services)
    return not any(left.values()) and not await digests(client)


@pytest.mark.shows("seed:containerd.WithResolver")
async def test_the_right_content_is_taken_from_the_next_host(client: Client, shop: Shop) -> None:
    name = shop.offer("a/b", "1", BIG)
    digest, layer = max(shop.blobs.items(), key=lambda item: len(item[1]))
    async with FakeRegistry() as mirror:
        mirror.blobs[digest] = b"x" + layer[1:]
        hosts = [RegistryHost(f"{mirror.url}/v2"), RegistryHost(f"{shop.url}/v2")]
        await client.pull(name, hosts=lambda _: hosts, keychain=ANONYMOUS)
        assert mirror.count("GET", digest) == 1
    await complete(client, name)


async def test_an_artifact_is_fetched_and_not_unpacked(client: Client, shop: Shop) -> None:
    config, payload = shop.add(b"no json"), shop.add(b"a chart")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.chart",
        "config": {**config.to_json(), "mediaType": "text/plain"},
        "layers": [{**payload.to_json(), "mediaType": "application/vnd.example.chart"}],
    }
    shop.add_manifest("a/b", "1", json.dumps(manifest).encode())
    image = await client.pull(f"{shop.host}/a/b:1", hosts=shop.hosts, keychain=ANONYMOUS)
    await collect_garbage(client.services)
    assert set(await digests(client)) == {image.target.digest, config.digest, payload.digest}
    assert not await Snapshotter(client.services).list()


@pytest.mark.shows("seed:containerd.WithSchema1Conversion", "seed:containerd.RemoteContext.ConvertSchema1")
async def test_a_manifest_of_schema_1_is_refused_or_converted(client: Client, shop: Shop) -> None:
    from containerd_aio.testing.images import layer_tar

    tars = [layer_tar({"etc/one": b"1"}), layer_tar({"etc/two": b"2"})]
    texts = [
        {"id": "1" * 64},
        {"id": "2" * 64, "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]}},
    ]
    document = {
        "schemaVersion": 1,
        "name": "a/b",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": shop.add(tar).digest} for tar in reversed(tars)],
        "history": [{"v1Compatibility": json.dumps(text)} for text in reversed(texts)],
    }
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    target = shop.add_manifest("a/b", "1", json.dumps(document).encode(), kind)
    name = f"{shop.host}/a/b:1"
    with pytest.raises(Unimplemented, match="schema 1; push it anew"):
        await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
    image = await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS, convert_schema1=True)
    assert (await image.config())["config"] == {"Cmd": ["/x"]}
    assert await image.rootfs() == [digest_of(tar) for tar in tars]
    assert image.labels["io.containerd.image/converted-docker-schema1"] == target.digest
    await complete(client, name)


async def test_a_cancelled_pull_is_resumed_by_the_next(client: Client, shop: Shop) -> None:
    name = shop.offer("a/b", "1", BIG)
    layer = max(shop.blobs.values(), key=len)
    digest = digest_of(layer)
    reached, held = anyio.Event(), anyio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(layer)
        await response.prepare(request)
        await response.write(layer[:1_500_000])
        reached.set()
        await held.wait()
        return response

    shop.on("GET", digest, half, times=1)
    content = ContentStore(client.services)

    async def stored() -> bool:
        found = await content.statuses()
        return any(s.offset > 200_000 for s in found)

    async with client.lease():  # what has come is kept for as long
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS))
            await reached.wait()
            await eventually(stored)
            tasks.cancel_scope.cancel()
        held.set()
        [ingest] = await content.statuses()
        assert not (await leftovers(client.services))["active"]
        await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
    again = [r for r in shop.requests if r.method == "GET" and digest in r.path][-1]
    assert again.headers["Range"] == f"bytes={ingest.offset}-{len(layer) - 1}"
    await complete(client, name)


PROGRAM = """
import sys, anyio
from containerd_aio import Client
from containerd_aio.distribution.hosts import RegistryHost
from containerd_aio.distribution.keychain import StaticKeychain

async def main(address, namespace, name):
    host = RegistryHost("http://" + name.partition("/")[0] + "/v2")
    async with Client(address, namespace=namespace) as client:
        await client.pull(name, hosts=lambda _: [host], keychain=StaticKeychain({}))

anyio.run(main, *sys.argv[1:])
"""


async def test_a_process_killed_in_mid_pull_leaves_nothing_after_the_next_pull(
    client: Client, daemon: Daemon, shop: Shop
) -> None:
    name = shop.offer("a/b", "1", BIG, b"small")
    layer = max(shop.blobs.values(), key=len)
    digest = digest_of(layer)
    held = anyio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(layer)
        await response.prepare(request)
        await response.write(layer[:1_500_000])
        await held.wait()
        return response

    shop.on("GET", digest, half, times=1)
    content = ContentStore(client.services)

    async def stored() -> bool:
        return any(s.offset > 200_000 for s in await content.statuses())

    process = await anyio.open_process(
        [sys.executable, "-c", PROGRAM, daemon.address, client.namespace, name], stdout=None, stderr=None
    )
    await eventually(stored)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    held.set()
    [lease] = await Leases(client.services).list()
    assert _leases.is_dead(lease.labels[_leases.HOLDER_LABEL])
    await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
    ranges = [r.headers.get("Range") for r in shop.requests if r.method == "GET" and digest in r.path]
    assert ranges[0] is None
    assert ranges[1] is not None  # what had come was not fetched again
    await complete(client, name)


async def test_a_daemon_killed_in_mid_pull(private_daemon: Callable[..., Daemon], shop: Shop) -> None:
    name = shop.offer("a/b", "1", BIG, b"small")
    layer = max(shop.blobs.values(), key=len)
    held = anyio.Event()

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(layer)
        await response.prepare(request)
        await response.write(layer[:1_500_000])
        await held.wait()
        await response.write(layer[1_500_000:])
        return response

    shop.on("GET", digest_of(layer), half, times=1)
    failures: list[ContainerdError] = []
    async with private_daemon() as daemon, Client(daemon.address) as client:
        content = ContentStore(client.services)

        async def stored() -> bool:
            return any(s.offset > 200_000 for s in await content.statuses())

        async def pull() -> None:
            try:
                await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
            except ContainerdError as exc:
                failures.append(exc)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pull)
            await eventually(stored)
            assert daemon.pid is not None
            os.kill(daemon.pid, signal.SIGKILL)
            held.set()
        assert isinstance(failures[0], Unavailable)
        await daemon.restart()
        await client.pull(name, hosts=shop.hosts, keychain=ANONYMOUS)
        await complete(client, name)


def test_only_certainly_dead_holders_are_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    me = _leases.identity(os.getpid())
    parent = _leases.identity(os.getppid())
    boot, namespace, pid, started = parent.split("/")
    assert not _leases.is_dead(parent)
    assert _leases.is_dead(f"{boot}/{namespace}/{pid}/{int(started) + 1}")
    assert _leases.is_dead(f"other-boot/{namespace}/{pid}/{started}")
    assert not _leases.is_dead(f"{boot}/other/{pid}/{started}")
    assert not _leases.is_dead("nonsense")
    assert _leases.is_dead(me)  # one of ours that is not in use could not be deleted
    # Where /proc hides the processes of others, they are no less alive.
    monkeypatch.setattr(_leases, "identity", lambda pid: me if pid == os.getpid() else "")
    assert not _leases.is_dead(parent)
    assert _leases.is_dead(f"{boot}/{namespace}/{1 << 40}/{started}")
