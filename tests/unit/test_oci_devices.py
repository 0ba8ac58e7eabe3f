"""Device nodes of this machine and of a directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import (
    LinuxDevice,
    NotADevice,
    SpecContext,
    device_from_path,
    devices,
    generate_spec,
    host_devices,
    with_host_devices,
    with_linux_device_follow_symlinks,
)


def test_a_character_device() -> None:
    info = Path("/dev/null").stat()
    assert device_from_path("/dev/null") == {
        "path": "/dev/null",
        "type": "c",
        "major": 1,
        "minor": 3,
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def test_a_fifo_is_a_device_by_itself_but_not_among_others(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o640)
    assert device_from_path(tmp_path / "fifo")["type"] == "p"
    assert devices.devices_below(str(tmp_path), "") == []


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    tmp_path.joinpath("link").symlink_to("/dev/null")
    with pytest.raises(NotADevice, match="give what it points to"):
        device_from_path(tmp_path / "link")


async def test_unless_asked_for(tmp_path: Path) -> None:
    tmp_path.joinpath("link").symlink_to("/dev/null")
    spec = await generate_spec(
        SpecContext(platform="linux"), with_linux_device_follow_symlinks(str(tmp_path / "link"), "r")
    )
    assert spec["linux"]["devices"][0]["path"] == "/dev/null"
    assert spec["linux"]["resources"]["devices"][-1] == {
        "allow": True,
        "type": "c",
        "major": 1,
        "minor": 3,
        "access": "r",
    }


def test_host_devices_are_dev_without_what_is_private() -> None:
    found = {device["path"] for device in host_devices()}
    assert {"/dev/null", "/dev/zero", "/dev/full"} <= found
    assert not {path for path in found if path.startswith(("/dev/pts/", "/dev/shm/", "/dev/mqueue/"))}
    assert "/dev/console" not in found
    assert all(
        stat.S_ISCHR(mode) or stat.S_ISBLK(mode) for mode in (os.lstat(path).st_mode for path in found)
    )


async def test_host_devices_in_a_spec() -> None:
    spec = await generate_spec(SpecContext(platform="linux"), with_host_devices())
    assert spec["linux"]["devices"] == host_devices()
    assert spec["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_a_directory_that_must_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("sub").mkdir()
    walk = devices._walk

    def refuse(directory: str, container_path: str) -> list[LinuxDevice]:
        if directory.endswith("/sub"):
            raise PermissionError(1, "Operation not permitted")
        return walk(directory, container_path)

    monkeypatch.setattr(devices, "_walk", refuse)
    monkeypatch.setattr(devices, "_in_user_namespace", lambda: False)
    with pytest.raises(InvalidArgument, match="can't be looked at: Operation not permitted"):
        devices.devices_below(str(tmp_path), "")
    monkeypatch.setattr(devices, "_in_user_namespace", lambda: True)
    assert devices.devices_below(str(tmp_path), "") == []
