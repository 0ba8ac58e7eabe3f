"""What containerd's own test suite asks of a snapshotter, asked through this client, with the mounts made here.

The suite is the one behind Go's ``TestSnapshotterClient``, on both snapshotters that need no preparation.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from containerd_aio import mounts
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from containerd_aio.services.leases import lease
from containerd_aio.services.snapshots import Kind, Mount, Snapshotter
from containerd_aio.services.stubs import Services

pytestmark = pytest.mark.shows("go:TestSnapshotterClient")
Change = Callable[[Path], None]


@pytest.fixture
async def services(daemon: Daemon, namespace: str) -> AsyncIterator[Services]:
    connections = Connections(Address.parse(daemon.address), timeout=30, connect_timeout=10)
    yield Services(connections, namespace)
    connections.close()


@pytest.fixture(params=["overlayfs", "native"])
async def snapshots(services: Services, request: pytest.FixtureRequest) -> AsyncIterator[Snapshotter]:
    async with lease(services):
        yield Snapshotter(services, request.param)


async def changed(made: list[Mount], *changes: Change) -> None:
    async with mounts.temporary_mount(made) as root:
        for change in changes:
            change(root)


async def layer(snapshots: Snapshotter, name: str, parent: str, *changes: Change) -> str:
    """Commit a snapshot of `parent` with `changes` made to it."""
    await changed(await snapshots.prepare(f"{name}-active", parent), *changes)
    await snapshots.commit(name, f"{name}-active")
    return name


async def look(snapshots: Snapshotter, parent: str, check: Callable[[Path], object]) -> None:
    """Call `check` with a view of `parent`."""
    made = await snapshots.view(f"{parent}-look", parent)
    async with mounts.temporary_mount(made) as root:
        check(root)
    await snapshots.remove(f"{parent}-look")


def writes(name: str, text: str, mode: int = 0o644) -> Change:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(mode)

    return change


def removes(name: str) -> Change:
    def change(root: Path) -> None:
        path = root / name
        if path.is_dir():
            for each in sorted(path.rglob("*"), reverse=True):
                each.unlink()
            path.rmdir()
        else:
            path.unlink()

    return change


def files(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


async def seen(snapshots: Snapshotter, parent: str) -> dict[str, str]:
    found: dict[str, str] = {}
    await look(snapshots, parent, lambda root: found.update(files(root)))
    return found


@pytest.mark.shows("seed:containerd.Client.SnapshotService")
async def test_layer_upon_layer(snapshots: Snapshotter) -> None:
    await changed(await snapshots.prepare("one"), writes("foo", "foo\n", 0o777), writes("a/b/c/hello", "hi"))
    info = await snapshots.stat("one")
    assert (info.kind, info.parent) == (Kind.ACTIVE, "")
    await snapshots.commit("base", "one", labels={"v": "1"})
    base = await snapshots.stat("base")
    assert (base.kind, base.parent, base.labels) == (Kind.COMMITTED, "", {"v": "1"})
    assert not await snapshots.exists("one")
    await layer(snapshots, "top", "base", writes("bar", "bar\n"), writes("a/b/c/hello", "changed"))
    top = await snapshots.stat("top")
    assert (top.kind, top.parent) == (Kind.COMMITTED, "base")
    assert await seen(snapshots, "base") == {"foo": "foo\n", "a/b/c/hello": "hi"}
    assert await seen(snapshots, "top") == {"foo": "foo\n", "a/b/c/hello": "changed", "bar": "bar\n"}
    usage = await snapshots.usage("top")
    assert usage.inodes > 0
    assert usage.size > 0


async def test_names_that_are_taken_or_not_there(snapshots: Snapshotter) -> None:
    await layer(snapshots, "base", "")
    await snapshots.prepare("active", "base")
    await snapshots.view("view", "base")
    with pytest.raises(AlreadyExists):
        await snapshots.commit("base", "active")
    for call in (snapshots.prepare("active"), snapshots.view("view", "base"), snapshots.prepare("view")):
        with pytest.raises(AlreadyExists):
            await call
    for call in (snapshots.prepare("x", "no"), snapshots.view("x", "no"), snapshots.mounts("no")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises((InvalidArgument, NotFound, FailedPrecondition)):
        await snapshots.prepare("x", "active")  # what is not committed is nobody's parent
    for gone in (snapshots.commit("c", "no"), snapshots.remove("no"), snapshots.usage("no")):
        with pytest.raises(NotFound):
            await gone
    with pytest.raises(ContainerdError):  # each snapshotter has its own words for it
        await snapshots.commit("c", "view")
    assert {info.name for info in await snapshots.list()} == {"base", "active", "view"}


async def test_labels(snapshots: Snapshotter) -> None:
    await snapshots.prepare("a", labels={"k": "v", "l": "w"})
    assert (await snapshots.update_labels("a", {"k": "x"})).labels == {"k": "x", "l": "w"}
    assert (await snapshots.update_labels("a", {"l": None})).labels == {"k": "x"}
    assert (await snapshots.update_labels("a", {"n": "1"}, replace=True)).labels == {"n": "1"}
    assert (await snapshots.update_labels("a", {}, replace=True)).labels == {}
    with pytest.raises(NotFound):
        await snapshots.update_labels("no", {"a": "b"})


async def test_what_others_are_built_on_is_not_removed(snapshots: Snapshotter) -> None:
    await layer(snapshots, "base", "", writes("f", "1"))
    await layer(snapshots, "middle", "base", writes("g", "2"))
    await snapshots.prepare("top", "middle")
    for name in ("base", "middle"):
        with pytest.raises(FailedPrecondition):
            await snapshots.remove(name)
    for name in ("top", "middle", "base"):
        await snapshots.remove(name)
        with pytest.raises(NotFound):
            await snapshots.stat(name)


async def test_walking_and_asking_meanwhile(snapshots: Snapshotter) -> None:
    await layer(snapshots, "base", "")
    for number in range(110):  # more than come in one message
        await snapshots.view(f"v{number}", "base", labels={"odd": str(number % 2)})
    names = set()
    async for info in snapshots.walk():
        names.add(info.name)
        assert (await snapshots.stat(info.name)).kind is info.kind
    assert len(names) == 111
    assert len([info async for info in snapshots.walk("labels.odd==1,kind==view")]) == 55
    assert [info.name for info in await snapshots.list("name==v7")] == ["v7"]


async def test_a_file_of_a_lower_layer_is_changed(snapshots: Snapshotter) -> None:
    await layer(snapshots, "l1", "", writes("etc/hosts", "1"), writes("sub/a", "a"))
    await layer(snapshots, "l2", "l1", writes("etc/hosts", "2" * 10_000))
    assert await seen(snapshots, "l2") == {"etc/hosts": "2" * 10_000, "sub/a": "a"}
    assert (await seen(snapshots, "l1"))["etc/hosts"] == "1"


async def test_a_directory_of_a_lower_layer_is_removed(snapshots: Snapshotter) -> None:
    await layer(snapshots, "l1", "", writes("lib/hidden", "x"), writes("keep", "k"))
    await layer(snapshots, "l2", "l1", removes("lib"), writes("lib/not-hidden", "y"))
    await layer(snapshots, "l3", "l2", writes("lib/new", "z"))
    assert await seen(snapshots, "l3") == {"keep": "k", "lib/not-hidden": "y", "lib/new": "z"}


async def test_removed_files_stay_removed(snapshots: Snapshotter) -> None:
    await layer(snapshots, "l1", "", writes("a", "1"), writes("b", "2"), writes("c", "3"))
    await layer(snapshots, "l2", "l1", removes("a"), writes("b", "22"))
    await layer(snapshots, "l3", "l2", removes("b"), writes("a", "11"))
    assert await seen(snapshots, "l2") == {"b": "22", "c": "3"}
    assert await seen(snapshots, "l3") == {"a": "11", "c": "3"}


async def test_owners_and_modes(snapshots: Snapshotter) -> None:
    def owned(uid: int, gid: int) -> Change:
        return lambda root: os.lchown(root / "opt" / "f", uid, gid)

    def check(root: Path) -> None:
        found = (root / "opt" / "f").stat()
        assert (found.st_uid, found.st_gid) == (1, 2)
        assert (root / "opt").stat().st_mode & 0o7777 == 0o2755
        assert (root / "opt").stat().st_uid == 7

    def special(root: Path) -> None:
        os.lchown(root / "opt", 7, 8)
        (root / "opt").chmod(0o2755)

    await layer(snapshots, "l1", "", writes("opt/f", "1"), owned(5, 6), special)
    await layer(snapshots, "l2", "l1", owned(1, 2))
    await look(snapshots, "l2", check)


async def test_files_are_moved_and_renamed(snapshots: Snapshotter) -> None:
    def renames(old: str, new: str) -> Change:
        def change(root: Path) -> None:
            (root / new).parent.mkdir(exist_ok=True)
            (root / old).rename(root / new)

        return change

    await layer(snapshots, "l1", "", writes("dir1/f1", "1"), writes("dir2/f2", "2"), writes("f", "0"))
    await layer(snapshots, "l2", "l1", renames("dir1/f1", "dir2/f1"), renames("f", "g/f"))
    assert await seen(snapshots, "l2") == {"dir2/f1": "1", "dir2/f2": "2", "g/f": "0"}


async def test_a_view_is_readonly_and_the_root_is_everybodys(snapshots: Snapshotter) -> None:
    def check(root: Path) -> None:
        assert root.stat().st_mode & 0o777 == 0o755
        with pytest.raises(OSError, match="Read-only") as caught:
            (root / "new").write_text("x")
        assert caught.value.errno == errno.EROFS

    await layer(snapshots, "base", "", writes("f", "1"))
    await look(snapshots, "base", check)


async def test_128_layers(services: Services) -> None:
    """So many that the options of the mount do not fit into a page."""
    snapshots = Snapshotter(services)
    async with lease(services):
        parent = ""
        for number in range(127):
            made = await snapshots.prepare(f"k{number}", parent)
            if number % 21 == 0:
                await changed(made, writes(f"f{number}", str(number)))
            parent = f"l{number}"
            await snapshots.commit(parent, f"k{number}")
        assert await seen(snapshots, parent) == {f"f{n}": str(n) for n in range(0, 127, 21)}
        await changed(await snapshots.prepare("top", parent), writes("new", "1"))


# -- the mounts themselves --------------------------------------------------------------------------------------


async def points(below: str) -> set[str]:
    text = await anyio.Path("/proc/self/mountinfo").read_text()
    return {path for line in text.splitlines() if (path := line.split(" ")[4]).startswith(below)}


async def test_mounting_and_unmounting(snapshots: Snapshotter, tmp_path: Path) -> None:
    await layer(snapshots, "base", "", writes("f", "1"))
    made = await snapshots.prepare("active", "base")
    target = tmp_path / "with a blank"
    target.mkdir()
    assert await mounts.mount(made, target) == len(made)
    assert files(target) == {"f": "1"}
    point = await mounts.lookup(target / "f")
    assert point.path == target
    assert await mounts.mount(made, target, readonly=True) == len(made)  # over the first
    with pytest.raises(OSError, match="Read-only"):
        (target / "f").write_text("2")
    assert await mounts.unmount(target) == 2 * len(made)
    assert await mounts.unmount(target) == 0
    assert list(target.iterdir()) == []
    with pytest.raises(NotFound):
        await mounts.lookup(tmp_path / "no")


async def test_a_block_undoes_its_mounts_whatever_happens(snapshots: Snapshotter, tmp_path: Path) -> None:
    await layer(snapshots, "base", "", writes("f", "1"))
    made = await snapshots.prepare("active", "base")
    before = await points(str(tmp_path))
    with anyio.CancelScope() as scope:
        async with mounts.mounted(made, tmp_path) as root:
            assert files(root) == {"f": "1"}
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(RuntimeError):
        async with mounts.temporary_mount(made) as root:
            raise RuntimeError
    assert not root.exists()
    with pytest.raises(FailedPrecondition, match="mount -t"):
        await mounts.mount([*made, Mount("no-such-type", "x")], tmp_path)
    with pytest.raises(InvalidArgument, match="leads out of"):
        await mounts.mount([*made, Mount("bind", "/", "../x", ("bind",))], tmp_path)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await mounts.mount(made, tmp_path)
    assert await points(str(tmp_path)) == before == set()


async def test_mounts_with_targets_and_those_below(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_text("1")
    target = tmp_path / "target"
    target.mkdir()
    (target / "below").mkdir()
    bind = Mount("bind", str(tmp_path / "source"), "/below", ("rbind", "ro"))
    async with mounts.mounted([bind], target):
        assert (target / "below" / "f").read_text() == "1"
        with pytest.raises(OSError, match="Read-only"):
            (target / "below" / "f").write_text("2")
    await mounts.mount([bind], target)
    assert await mounts.unmount(target) == 0
    assert await mounts.unmount(target, recursive=True) == 1
