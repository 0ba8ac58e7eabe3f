"""Users and groups of a root filesystem, which may be hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import NoGroupsFound, NoUsersFound, gid_from_path, user_from_path
from containerd_aio.oci.rootfs import MAX_FILE_SIZE, read_in_root
from containerd_aio.oci.users import (
    Group,
    PasswdUser,
    parse_group,
    parse_passwd,
    parse_user,
    resolve_groups,
    resolve_user,
    supplementary_gids,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root filesystem; what is beside it must never be seen."""
    inside = tmp_path / "root"
    inside.joinpath("etc").mkdir(parents=True)
    outside = tmp_path / "etc"
    outside.mkdir()
    outside.joinpath("passwd").write_text("secret:x:1:1:::\n")
    outside.joinpath("group").write_text("secret:x:1:\n")
    return inside


def test_passwd_lines() -> None:
    data = b"root:x:0:0:r:/root:/bin/sh\n\n  app:x:+7:08:\n#no:x:1:1\nbad:x:one:1:\nbad2:x:1\nbig:x:2147483648:0\nneg:x:-1:0\n\xff:x:3:4"
    assert parse_passwd(data) == [
        PasswdUser("root", 0, 0),
        PasswdUser("app", 7, 8),
        PasswdUser("#no", 1, 1),
        PasswdUser("\udcff", 3, 4),
    ]


def test_group_lines() -> None:
    data = b"root:x:0:\r\nwheel:x:10:root,app\nshort:x:5\nbad:x:x:root\n:x:6:\n"
    assert parse_group(data) == [
        Group("root", 0),
        Group("wheel", 10, ("root", "app")),
        Group("short", 5),
        Group("", 6),
    ]


def test_a_damaged_id_is_not_root(root: Path) -> None:
    root.joinpath("etc/passwd").write_text("app:x:oops:0::/:/bin/sh\n")
    with pytest.raises(NoUsersFound, match="no user 'app' in /etc/passwd"):
        resolve_user(root, "app")


@pytest.mark.parametrize(
    ("user", "parts"),
    [
        ("app", ("app", None)),
        ("5", (5, None)),
        ("+5", (5, None)),
        ("0:0", (0, 0)),
        ("app:", ("app", 0)),
        ("5:staff", (5, "staff")),
        ("5_0:1 ", ("5_0", "1 ")),
        ("٣", ("٣", None)),
    ],
)
def test_user_syntax(user: str, parts: tuple[str | int, str | int | None]) -> None:
    assert parse_user(user) == parts


def test_without_files_numbers_work_and_names_do_not(root: Path) -> None:
    assert resolve_user(root, "5") == (5, 0)
    assert supplementary_gids(root, 5) == []
    assert supplementary_gids(root, "root") == []
    assert resolve_groups(root, [5]) == [5]
    with pytest.raises(NoUsersFound):
        user_from_path(root)
    with pytest.raises(NoGroupsFound):
        gid_from_path(root)
    with pytest.raises(NoGroupsFound, match="no group 'staff' in /etc/group"):
        resolve_groups(root, ["staff"])
    with pytest.raises(NoGroupsFound, match="no group 'staff' in /etc/group"):
        resolve_user(root, "5:staff")


def test_no_root_filesystem_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not a directory"):
        resolve_user(tmp_path / "nope", "5")


def test_predicates(root: Path) -> None:
    root.joinpath("etc/passwd").write_text("a:x:1:2\nb:x:3:4\n")
    root.joinpath("etc/group").write_text("a:x:1:\nb:x:3:\n")
    assert user_from_path(root) == PasswdUser("a", 1, 2)
    assert user_from_path(root, lambda user: user.uid == 3) == PasswdUser("b", 3, 4)
    assert gid_from_path(root, lambda group: group.name == "b") == 3


@pytest.mark.parametrize(
    ("links", "found"),
    [
        # absolute targets start at the root of the container
        ({"etc/passwd": "/real/passwd"}, True),
        ({"etc/passwd": "../real/passwd"}, True),
        ({"etc/passwd": "/link", "link": "real/./passwd"}, True),
        ({"etc/passwd": "/up/passwd", "up": "real/../real"}, True),
        # ".." stops at the root, however often
        ({"etc/passwd": "../../../../../real/passwd"}, True),
        ({"etc/passwd": "/real/passwd/"}, True),
        # the host's files of the same name, and the one beside the root, are out of reach
        ({"etc/passwd": "{outside}/passwd"}, False),
        ({"etc/passwd": "../../etc/passwd2"}, False),
        ({"etc/passwd": "/nowhere"}, False),
        ({"etc/passwd": "/real/passwd/../passwd"}, False),
        ({"etc/passwd": "/proc/self/root/etc/passwd"}, False),
    ],
)
def test_symlinks_stay_inside(root: Path, links: dict[str, str], found: bool) -> None:
    root.joinpath("real").mkdir()
    root.joinpath("real/passwd").write_text("inside:x:7:7:::\n")
    for name, target in links.items():
        root.joinpath(name).symlink_to(target.replace("{outside}", str(root.parent / "etc")))
    if found:
        assert user_from_path(root).name == "inside"
    else:
        with pytest.raises(NoUsersFound):
            user_from_path(root)


def test_a_directory_symlink_out_of_the_root_leads_nowhere(root: Path) -> None:
    root.joinpath("etc").rmdir()
    root.joinpath("etc").symlink_to("../etc")
    with pytest.raises(InvalidArgument, match="too many symlinks"):  # "etc" is itself, seen from inside
        user_from_path(root)
    root.joinpath("etc").unlink()
    root.joinpath("etc").symlink_to(root.parent / "etc")
    with pytest.raises(NoUsersFound):
        user_from_path(root)


def test_symlinks_in_a_circle(root: Path) -> None:
    root.joinpath("etc/passwd").symlink_to("/etc/b")
    root.joinpath("etc/b").symlink_to("passwd")
    with pytest.raises(InvalidArgument, match="too many symlinks"):
        user_from_path(root)


def test_a_fifo_does_not_block(root: Path) -> None:
    os.mkfifo(root / "etc/passwd")
    with pytest.raises(InvalidArgument, match="is not a regular file"):
        user_from_path(root)


def test_a_directory_or_a_symlink_to_one(root: Path) -> None:
    root.joinpath("etc/passwd").mkdir()
    root.joinpath("etc/group").symlink_to("passwd")
    with pytest.raises(InvalidArgument, match="is not a regular file"):
        user_from_path(root)
    with pytest.raises(InvalidArgument, match="is not a regular file"):
        gid_from_path(root)


def test_a_huge_file_is_refused(root: Path) -> None:
    with root.joinpath("etc/passwd").open("wb") as file:
        file.truncate(MAX_FILE_SIZE)
    assert len(read_in_root(root, "/etc/passwd")) == MAX_FILE_SIZE
    with root.joinpath("etc/passwd").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InvalidArgument, match="larger than 10485760 bytes"):
        user_from_path(root)


def test_descriptors_are_closed(root: Path) -> None:
    root.joinpath("etc/passwd").write_text("a:x:1:2\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert read_in_root(root, "/etc/passwd")
    for name in ("/etc/nope", "/etc", "/etc/passwd/x"):
        with pytest.raises((OSError, InvalidArgument)):
            read_in_root(root, name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
