"""Container records on three releases: every way to make one, change it, find it, and what is left of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import (
    AlreadyExists,
    Client,
    Container,
    FailedPrecondition,
    IDMap,
    IDRange,
    InvalidArgument,
    NotFound,
    Unknown,
    oci,
    stdio,
    typeurl,
)
from containerd_aio.services.snapshots import Kind, Snapshotter
from tests.integration.image_support import collect_garbage

if TYPE_CHECKING:
    from tests.integration.daemon_view import Ctr

IMAGE = "docker.io/library/busybox:latest"
LABELLED = "docker.io/library/labelled:latest"


async def output(container: Container) -> tuple[int, str]:
    """Run the task of a container to its end; return its code and what it wrote."""
    async with await container.new_task(io=stdio.capture()) as task:
        await task.start()
        status = await task.wait(timeout=30)
        await task.delete()
        assert task.captured is not None
        return status.code, (task.captured.stdout + task.captured.stderr).decode().strip()


@pytest.fixture
async def held(client: Client) -> AsyncIterator[None]:
    """A lease: snapshots that no container has are there until the end."""
    async with client.lease():
        yield


@pytest.fixture
async def labelled(client: Client, tmp_path: Path) -> str:
    """An image with users, labels and a stop signal."""
    from containerd_aio.testing.images import Entry, build_image_archive

    users = b"root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nworker:x:1000:1001::/:/bin/sh\n"
    groups = b"root:x:0:\nwww-data:x:33:\nworker:x:1001:\nextra:x:77:worker\n"
    layer: dict[str, bytes | Entry] = {
        **{name: Entry(directory=True, mode=0o755) for name in ("dev", "proc", "run", "sys")},
        "bin/busybox": Entry(Path("/bin/busybox").read_bytes(), mode=0o755),
        "bin/sh": Entry(link="busybox"),
        "etc/passwd": users,
        "etc/group": groups,
        "owned": Entry(b"x", uid=1000, gid=1001, mode=0o4755),
        "theirs": Entry(b"x", uid=70000),
    }
    config = {
        "Cmd": ["/bin/sh", "-c", "exit 4"],
        "Labels": {"team": "blue", "containerd.io/gc.root": "never", "io.cri-containerd.kind": "never"},
        "StopSignal": "SIGUSR1",
    }
    path = build_image_archive(tmp_path / "labelled.tar", LABELLED, layers=[layer], config=config)
    await client.import_archive(path, unpack=True)
    return LABELLED


@pytest.mark.shows(
    "go:TestNewContainer",
    "go:TestContainerList",
    "go:TestContainerInfo",
    "go:TestContainerImage",
    "go:TestContainerNoImage",
    "seed:containerd.Client.NewContainer",
    "seed:containerd.Client.LoadContainer",
    "seed:containerd.Client.Containers",
    "seed:containerd.NewContainerOpts",
    "seed:containerd.Container",
    "seed:containerd.Container.ID",
    "seed:containerd.Container.Info",
    "seed:containerd.Container.Spec",
    "seed:containerd.Container.Image",
    "seed:containerd.Container.Labels",
    "seed:containerd.Container.Delete",
    "seed:containerd.WithImage",
    "seed:containerd.WithContainerLabels",
    "seed:containerd.WithSpec",
    "seed:containerd.WithSnapshotCleanup",
    "seed:containerd.DeleteOpts",
)
@pytest.mark.usefixtures("held")
async def test_a_record_is_made_found_and_deleted(client: Client, containerd_version: str) -> None:
    assert await client.containers() == []
    before = datetime.now(UTC) - timedelta(seconds=1)
    made = await client.new_container(
        "one", image=IMAGE, args=["true"], labels={"team": "blue"}, sandbox="a-sandbox"
    )
    bare = await client.new_container("two", spec=await made.spec())
    info = await (await client.container("one")).info()
    assert (info.id, info.image, info.labels) == ("one", IMAGE, {"team": "blue"})
    assert (info.runtime, info.snapshotter, info.snapshot_key) == (
        "io.containerd.runc.v2",
        "overlayfs",
        "one",
    )
    assert info.sandbox == ("" if containerd_version == "1.6" else "a-sandbox")
    assert info.created_at is not None
    assert before < info.created_at == info.updated_at
    assert info.spec == await made.spec() == await bare.spec()
    assert (await made.image()).name == IMAGE
    assert (await bare.info()).snapshotter == ""
    with pytest.raises(NotFound, match="not made from an image"):
        await bare.image()
    assert [c.id for c in await client.containers()] == ["one", "two"]
    assert [c.id for c in await client.containers("labels.team==blue", "id==none")] == ["one"]
    assert [c.id for c in await client.containers(f'image=="{IMAGE}"')] == ["one"]
    with pytest.raises(InvalidArgument):
        await client.containers("id=")
    await bare.delete()
    await made.delete(snapshot=False)
    with pytest.raises(NotFound):
        await made.info()
    assert made.labels == (await made.info(refresh=False)).labels == {"team": "blue"}
    with pytest.raises(NotFound):
        await client.container("one")
    # Its snapshot was left, and may be used by another.
    again = await client.new_container("three", image=IMAGE, args=["true"], snapshot="one")
    await again.delete()
    assert not await Snapshotter(client.services).exists("one")


@pytest.mark.shows(
    "go:TestContainerUpdate",
    "go:TestContainerLabels",
    "go:TestContainerExtensions",
    "seed:containerd.Container.SetLabels",
)
@pytest.mark.usefixtures("held")
async def test_a_record_is_changed_in_parts(client: Client) -> None:
    packed = typeurl.pack({"a": [1]}, "example.com/config")
    container = await client.new_container(
        "changed",
        image=IMAGE,
        args=["true"],
        labels={"one": "1", "with.dots/and-more": "2"},
        extensions={"json": packed, "options": oci.RuncOptions(io_uid=5).raw},
    )
    async with container:
        extensions = await container.extensions()
        assert extensions["json"] == packed
        assert extensions["options"].io_uid == 5
        labels = await container.set_labels({"with.dots/and-more": "3", "one": None, "new": "4"})
        assert labels == container.labels == {"with.dots/and-more": "3", "new": "4"}
        with pytest.raises(InvalidArgument):
            await container.set_labels({"long": "x" * 4096})
        assert await container.set_labels({}) == labels

        spec = await container.spec()
        spec["hostname"] = "renamed"
        info = await container.update(
            spec=spec, image="other", extensions={"more": oci.RuncOptions(root="/x").raw}
        )
        assert (info.image, info.labels, info.snapshot_key) == ("other", labels, "changed")
        assert info.spec == await container.spec() == spec
        assert {*info.extensions} == {"json", "more", "options"}
        info = await container.update(extensions={"more": packed}, labels={"new": "5"})
        assert {*info.extensions} == {"json", "more", "options"}
        assert (info.extensions["more"], info.labels["new"], info.image) == (packed, "5", "other")
        assert (await container.update()).raw == info.raw
        with pytest.raises(InvalidArgument, match="name of an extension"):
            await container.update(extensions={"": packed})
        await Snapshotter(client.services).prepare("spare", await (await client.image(IMAGE)).chain_id())
        assert (await container.update(snapshot="spare")).snapshot_key == "spare"
    assert not await Snapshotter(client.services).exists("spare")
    await Snapshotter(client.services).remove("changed")


@pytest.mark.shows(
    "seed:containerd.WithSnapshot",
    "seed:containerd.WithSnapshotter",
    "seed:containerd.WithNewSnapshot",
    "seed:containerd.WithNewSnapshotView",
)
async def test_snapshots_of_all_kinds(client: Client, labelled: str, tmp_path: Path) -> None:
    native = Snapshotter(client.services, "native")
    options: dict[str, Any] = {"image": IMAGE, "args": ["sh", "-c", "touch /made && echo made"]}
    container = await client.new_container(
        "native", **options, snapshotter="native", new_snapshot="its key", snapshot_labels={"a": "b"}
    )
    async with container:
        about = await native.stat("its key")
        assert (about.kind, about.labels) == (Kind.ACTIVE, {"a": "b"})
        assert await output(container) == (0, "made")
        with pytest.raises(AlreadyExists, match="snapshot='its key'"):
            await client.new_container("other", **options, snapshotter="native", new_snapshot="its key")
    assert not await native.exists("its key")

    read_only = await client.new_container(
        "view",
        image=labelled,
        args=["/bin/sh", "-c", "echo x > /made"],
        view=True,
        spec_opts=[oci.with_rootfs_readonly()],
    )
    async with read_only:
        assert (await Snapshotter(client.services).stat("view")).kind is Kind.VIEW
        assert (await output(read_only))[0] == 1

    with pytest.raises(NotFound):
        await client.new_container("missing", image=IMAGE, snapshot="no such key")
    with pytest.raises(InvalidArgument):
        await client.new_container("missing", image=IMAGE, snapshotter="no-such-snapshotter")
    # No snapshot at all: the root filesystem is given with the task.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "bin" / "sh").chmod(0o755)
    from containerd_aio import Mount

    bind = Mount("bind", str(tmp_path), options=("rbind", "rw"))
    async with await client.new_container(
        "none", image=IMAGE, snapshot=False, args=["/bin/sh", "-c", "echo x > /made"]
    ) as container:
        assert (await container.info()).snapshot_key == ""
        async with await container.new_task(rootfs=[bind]) as task:
            await task.start()
            assert (await task.wait(timeout=20)).code == 0
    assert (tmp_path / "made").read_text() == "x\n"
    assert [c.id for c in await client.containers()] == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"args": ["true"], "new_snapshot": "x"},
        {"image": IMAGE, "snapshot": "a", "new_snapshot": "b"},
        {"image": IMAGE, "snapshot": "a", "view": True},
        {"image": IMAGE, "snapshot": False, "snapshot_labels": {"a": "b"}},
        {"args": ["true"], "id_map": IDMap.shifted(1000)},
        {"image": IMAGE, "snapshot": ""},
        {"image": IMAGE, "new_snapshot": ""},
        {"args": ["true"], "image_labels": True},
        {"args": ["true"], "stop_signal": "TERM"},
        {"image": IMAGE, "sandbox": "not an id"},
        {"image": IMAGE, "extensions": {"": oci.RuncOptions().raw}},
        {"image": IMAGE, "spec": {}, "args": ["true"]},
        {"image": IMAGE, "args": "true"},
    ],
    ids=str,
)
async def test_options_that_contradict_each_other_are_refused(options: dict[str, object]) -> None:
    from containerd_aio._new_container import ContainerOptions

    with pytest.raises(InvalidArgument):
        ContainerOptions(**options).check()  # type: ignore[arg-type]


async def test_labels_and_stop_signal_of_the_image(client: Client, labelled: str) -> None:
    plain = await client.new_container("plain", image=labelled)
    async with plain:
        assert plain.labels == {}
        assert await plain.stop_signal() == 15
        assert await plain.stop_signal("KILL") == 9
    container = await client.new_container(
        "all", image=labelled, image_labels=True, stop_signal="TERM", labels={"mine": "1"}
    )
    async with container:
        assert container.labels == {
            "team": "blue",
            "mine": "1",
            "io.containerd.image.config.stop-signal": "SIGUSR1",
        }
        assert await container.stop_signal() == 10
        assert await output(container) == (4, "")
    async with await client.new_container("own", image=IMAGE, args=["true"], stop_signal="INT") as container:
        assert await container.stop_signal() == 2


@pytest.mark.shows("go:TestDefaultRuntimeWithNamespaceLabels", "seed:containerd.WithRuntime")
async def test_the_namespace_says_which_runtime_and_snapshotter_are_the_default(client: Client) -> None:
    labels = {
        "containerd.io/defaults/runtime": "io.containerd.no-such.v1",
        "containerd.io/defaults/snapshotter": "native",
    }
    await client.namespaces.update_labels(client.namespace, labels)
    async with await client.new_container("by-label", image=IMAGE, args=["true"]) as container:
        info = await container.info()
        assert (info.runtime, info.snapshotter) == ("io.containerd.no-such.v1", "native")
        with pytest.raises((NotFound, InvalidArgument, Unknown), match="no-such"):
            await container.new_task()
    async with await client.new_container(
        "explicit", image=IMAGE, args=["true"], runtime="io.containerd.runc.v2", snapshotter="overlayfs"
    ) as container:
        info = await container.info()
        assert (info.runtime, info.snapshotter) == ("io.containerd.runc.v2", "overlayfs")
        assert await output(container) == (0, "")


@pytest.mark.shows(
    "go:TestContainerUsername", "go:TestContainerUser", "go:TestContainerUserID", "go:TestUIDNoGID"
)
async def test_users_are_looked_up_in_the_image(client: Client, labelled: str) -> None:
    command = ["/bin/sh", "-c", "busybox id -u; busybox id -g"]
    expected = [
        (oci.with_username("www-data"), "33 33"),
        (oci.with_user("www-data"), "33 33"),
        (oci.with_user("worker:extra"), "1000 77"),
        (oci.with_user("1000"), "1000 1001"),
        (oci.with_user("5:6"), "5 6"),
        (oci.with_user_id(1000), "1000 1001"),
        (oci.with_user_id(4321), "4321 0"),
    ]
    for n, (opt, ids) in enumerate(expected):
        container = await client.new_container(f"user-{n}", image=labelled, args=command, spec_opts=[opt])
        async with container:
            code, text = await output(container)
            assert (code, text.split()) == (0, ids.split())
    with pytest.raises(NotFound):
        await client.new_container("nobody", image=labelled, spec_opts=[oci.with_user("nobody")])
    assert not await Snapshotter(client.services).exists("nobody")
    assert mounted(client) == []


def mounted(client: Client) -> list[str]:
    """Return the mounts of ours that have to do with the daemon of `client`."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    daemon = Path(client.address.removeprefix("unix://")).parent.name
    return [mount for mount in mounts if "/containerd-aio-" in mount and daemon in mount]


@pytest.mark.shows("go:TestUserNamespaces", "go:TestIDMappedOverlay", "seed:containerd.WithRemappedSnapshot")
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_a_user_namespace_owns_its_files(
    client: Client, labelled: str, containerd_version: str, snapshotter: str
) -> None:
    if snapshotter == "native":
        await (await client.image(IMAGE)).unpack("native")
    ids = IDMap((IDRange(0, 200000, 1000), IDRange(1000, 300000, 9000)), (IDRange(0, 400000, 10000),))
    script = "echo x > /made && stat -c %u:%g /bin /made && head -1 /proc/self/uid_map"
    streams = oci.RuncOptions(io_uid=200000, io_gid=400000)
    for n in range(2):  # the second time what was remapped is there
        container = await client.new_container(
            f"mapped-{n}", image=IMAGE, args=["sh", "-c", script], id_map=ids, snapshotter=snapshotter
        )
        async with container:
            async with await container.new_task(io=stdio.capture(), options=streams) as task:
                await task.start()
                status = await task.wait(timeout=30)
                await task.delete()
                assert task.captured is not None
                assert task.captured.stderr == b""
                assert task.captured.stdout.decode().split() == ["0:0", "0:0", "0", "200000", "1000"]
                assert status.code == 0
    wide = IDMap.shifted(500000, size=80000)
    view = await client.new_container(
        "mapped-view",
        image=labelled,
        args=["/bin/sh", "-c", "busybox stat -c %u:%g /bin; ! busybox touch /made 2>/dev/null"],
        id_map=wide,
        view=True,
        snapshotter=snapshotter,
        spec_opts=[oci.with_rootfs_readonly()],
    )
    streams = oci.RuncOptions(io_uid=500000, io_gid=500000)
    async with view, await view.new_task(io=stdio.capture(), options=streams) as task:
        await task.start()
        assert (await task.wait(timeout=30)).code == 0
        await task.delete()
        assert task.captured is not None
        assert task.captured.stdout == b"0:0\n"
    snapshots = Snapshotter(client.services, snapshotter)
    mapped_by_snapshotter = snapshotter == "overlayfs" and containerd_version == "2.1"
    if not mapped_by_snapshotter:
        # A file of somebody who is not in the map: nothing stays behind.
        with pytest.raises(InvalidArgument, match="70000"):
            await client.new_container("theirs", image=labelled, id_map=ids, snapshotter=snapshotter)
        async with await client.new_container("wide", image=labelled, id_map=wide, snapshotter=snapshotter):
            (mount,) = await snapshots.mounts("wide")
            assert owner(mount, "owned") == (501000, 501001, 0o4755)
            assert owner(mount, "theirs")[0] == 570000
    await collect_garbage(client.services)
    assert [info.name for info in await snapshots.list() if info.kind is not Kind.COMMITTED] == []


async def test_a_cancelled_creation_in_a_user_namespace_leaves_nothing(client: Client, labelled: str) -> None:
    snapshots = Snapshotter(client.services, "native")
    for n in range(8):
        with anyio.move_on_after(0.03 * n):
            async with await client.new_container(
                f"cancelled-{n}",
                image=labelled,
                snapshotter="native",
                id_map=IDMap.shifted(9, size=80000 + n),
            ):
                pass
    assert await client.containers() == []
    await collect_garbage(client.services)
    assert [info.name for info in await snapshots.list() if info.kind is not Kind.COMMITTED] == []
    assert mounted(client) == []


def owner(mount: object, name: str) -> tuple[int, int, int]:
    """Return owner, group and permissions of a file below the top layer of a mount."""
    options = {k: v for k, _, v in (o.partition("=") for o in getattr(mount, "options", ()))}
    lower = options.get("lowerdir", getattr(mount, "source", "")).split(":")[0]
    about = (Path(lower) / name).stat()
    return about.st_uid, about.st_gid, about.st_mode & 0o7777


@pytest.mark.shows("go:TestDeleteRunningContainer")
async def test_a_container_with_a_task_is_not_deleted(client: Client) -> None:
    async with await client.new_container("busy", image=IMAGE, args=["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            with pytest.raises(FailedPrecondition, match="has a task"):
                await container.delete()
            assert (await container.info()).id == "busy"
            assert await task.status() == "running"


async def test_ctr_sees_what_was_made_and_the_other_way_round(
    daemon: object, client: Client, ctr: Ctr
) -> None:
    async with await client.new_container("seen", image=IMAGE, args=["true"], labels={"a": "b"}) as container:
        assert (await container.info()).image == IMAGE
        text = await ctr(daemon, "--namespace", client.namespace, "containers", "info", "seen")
        assert '"a": "b"' in text
        await ctr(daemon, "--namespace", client.namespace, "containers", "label", "seen", "c=d")
        assert (await container.info()).labels == {"a": "b", "c": "d"}
