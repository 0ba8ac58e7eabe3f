"""Options of the runc shim."""

from __future__ import annotations

from typing import Any

import pytest

from containerd_aio import typeurl
from containerd_aio.api.containerd.runc.v1 import Options
from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import RuncOptions


def test_the_message_has_what_is_set() -> None:
    options = RuncOptions(binary_name="crun", root="/run/crun", systemd_cgroup=True, io_uid=7)
    assert options.raw == Options(binary_name="crun", root="/run/crun", systemd_cgroup=True, io_uid=7)
    assert typeurl.pack(options.raw).type_url == "containerd.runc.v1.Options"
    assert RuncOptions.from_raw(options.raw) == options
    assert RuncOptions().raw == Options()


def test_every_field_of_the_message_can_be_set() -> None:
    fields: dict[str, Any] = {
        name: {bool: True, int: 3, str: "/x"}[type(value)]
        for name, value in vars(Options()).items()
        if name[0] != "_"
    }
    options = RuncOptions(**fields)
    assert options.raw == Options(**fields)
    assert RuncOptions.from_raw(options.raw) == options


def test_what_a_task_sets_wins_the_rest_is_the_containers() -> None:
    container = RuncOptions(binary_name="crun", systemd_cgroup=True, criu_work_path="/w")
    task = RuncOptions(systemd_cgroup=False, criu_image_path="/i")
    assert container.merge(task) == RuncOptions(
        binary_name="crun", systemd_cgroup=False, criu_work_path="/w", criu_image_path="/i"
    )
    assert container.merge(RuncOptions()) == container


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"systemd_cgroup": 1}, r"systemd_cgroup must be True or False, not 1 \(int\)"),
        ({"io_uid": -1}, "io_uid is -1; it must be from 0 to 4294967295"),
        ({"root": "run"}, "root is 'run'; it must be an absolute path on the host"),
        ({"criu_image_path": "x"}, "criu_image_path is 'x'"),
        ({"binary_name": b"crun"}, "binary_name must be a string"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        RuncOptions(**options)
