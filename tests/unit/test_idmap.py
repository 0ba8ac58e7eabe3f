"""Id maps: what they refuse, what they say of snapshots and specs, and files given away."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from containerd_aio import IDMap, IDRange, InvalidArgument
from containerd_aio._remap import give_away, remapped_key

SPLIT = IDMap((IDRange(0, 1000, 1), IDRange(1, 100000, 65535)), (IDRange(0, 2000, 65536),))


def test_an_id_map_speaks_the_languages_of_snapshots_and_specs() -> None:
    assert SPLIT.labels == {
        "containerd.io/snapshot/uidmapping": "0:1000:1,1:100000:65535",
        "containerd.io/snapshot/gidmapping": "0:2000:65536",
    }
    assert SPLIT.uid_mappings == [
        {"containerID": 0, "hostID": 1000, "size": 1},
        {"containerID": 1, "hostID": 100000, "size": 65535},
    ]
    assert SPLIT.gid_mappings == [{"containerID": 0, "hostID": 2000, "size": 65536}]
    assert [SPLIT.host_uid(n) for n in (0, 1, 65535)] == [1000, 100000, 165534]
    assert SPLIT.host_gid(5) == 2005
    assert IDMap.shifted(7).gids == IDMap.shifted(1, 7).gids == (IDRange(0, 7, 65536),)


@pytest.mark.parametrize(
    "uids",
    [
        (),
        (IDRange(1, 1000, 5),),
        (IDRange(0, 1000, 5), IDRange(4, 2000, 5)),
        (IDRange(0, 1000, 5), IDRange(5, 1004, 5)),
    ],
)
def test_what_maps_nobody_or_somebody_twice_is_refused(uids: tuple[IDRange, ...]) -> None:
    with pytest.raises(InvalidArgument):
        IDMap(uids, SPLIT.gids)
    with pytest.raises(InvalidArgument):
        IDMap(SPLIT.uids, uids)


@pytest.mark.parametrize("values", [(-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 2**32 - 1, 2), (2**32, 0, 1)])
def test_ranges_that_are_none(values: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidArgument, match="no range of ids"):
        IDRange(*values)


def test_who_is_not_mapped_is_told() -> None:
    with pytest.raises(InvalidArgument, match="user id 65536 is not in the id map 0:1000:1,1:100000:65535"):
        SPLIT.host_uid(65536)


def test_the_name_of_a_remapped_snapshot_is_that_of_its_making() -> None:
    key = remapped_key("sha256:parent", SPLIT)
    other_order = IDMap(SPLIT.uids[::-1], SPLIT.gids)
    assert key == remapped_key("sha256:parent", other_order)
    assert (
        len({key, remapped_key("sha256:other", SPLIT), remapped_key("sha256:parent", IDMap.shifted(1))}) == 3
    )


async def test_files_are_given_away_once_with_their_special_bits_and_links_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_text("x")
    (root / "folder" / "file").chmod(0o4755)
    (root / "again").hardlink_to(root / "folder" / "file")
    (root / "link").symlink_to(tmp_path)
    given: dict[str, tuple[int, int]] = {}

    def lchown(path: str, uid: int, gid: int) -> None:
        given[os.path.relpath(path, root)] = uid, gid

    monkeypatch.setattr(os, "lchown", lchown)
    modes: dict[str, int] = {}
    monkeypatch.setattr(os, "chmod", lambda path, mode: modes.update({os.path.relpath(path, root): mode}))
    me = IDMap(
        (IDRange(0, 5, 1), IDRange(os.getuid() or 1, 500, 1)),
        (IDRange(0, 6, 1), IDRange(os.getgid() or 1, 600, 1)),
    )
    await anyio.to_thread.run_sync(give_away, root, me)
    assert {*given} - {"again", "folder/file"} == {".", "folder", "link"}
    assert len({"again", "folder/file"} & {*given}) == 1
    assert set(given.values()) == {(me.host_uid(os.getuid()), me.host_gid(os.getgid()))}
    assert [*modes.values()] == [0o4755]


async def test_giving_away_ends_when_it_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    given: list[str] = []
    with anyio.CancelScope() as scope:

        def lchown(path: str, *_: int) -> None:
            given.append(path)
            anyio.from_thread.run_sync(scope.cancel)

        monkeypatch.setattr(os, "lchown", lchown)
        await anyio.to_thread.run_sync(give_away, tmp_path, IDMap.shifted(0))
    assert scope.cancelled_caught
    assert len(given) < 3
