"""CDI files: which are used, which are passed over, and what is said about it. What they change: test_oci_more_opts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from containerd_aio.errors import FailedPrecondition, NotFound
from containerd_aio.oci import SpecContext, cdi, generate_spec, with_cdi_devices

DEVICE: dict[str, Any] = {"name": "x", "containerEdits": {"env": ["A=1"]}}
FILE: dict[str, Any] = {"cdiVersion": "0.5.0", "kind": "a.b/c", "devices": [DEVICE]}


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    low, high = tmp_path / "etc", tmp_path / "run"
    low.mkdir()
    high.mkdir()
    return low, high


def _put(directory: Path, name: str = "a.json", **changes: Any) -> None:
    (directory / name).write_text(json.dumps({**FILE, **changes}))


def _env(value: str) -> list[dict[str, Any]]:
    return [{"name": "x", "containerEdits": {"env": [value]}}]


def test_the_last_directory_wins(directories: tuple[Path, Path]) -> None:
    _put(directories[0], devices=_env("A=low"))
    _put(directories[1], devices=_env("A=high"))
    (device,) = cdi.find_devices(["a.b/c=x"], directories=directories)
    assert device.edits == {"env": ["A=high"]}
    assert device.path == str(directories[1] / "a.json")


def test_two_files_of_one_directory_cancel_each_other(directories: tuple[Path, Path]) -> None:
    _put(directories[0], "a.json")
    _put(directories[0], "b.json")
    with pytest.raises(NotFound, match=r"a\.b/c=x is in .*a\.json and .*b\.json"):
        cdi.find_devices(["a.b/c=x"], directories=directories)


def test_a_broken_file_is_told_only_when_something_is_missing(directories: tuple[Path, Path]) -> None:
    _put(directories[0])
    (directories[0] / "broken.json").write_text("{")
    (directories[0] / "ignored.txt").write_text("{")
    (directories[0] / "folder.json").mkdir()
    assert len(cdi.find_devices(["a.b/c=x"], directories=directories)) == 1
    with pytest.raises(
        NotFound, match=r"no CDI device a\.b/c=y in .*; CDI file .*broken\.json can't be used"
    ):
        cdi.find_devices(["a.b/c=x", "a.b/c=y"], directories=directories)


def test_no_directory_at_all(tmp_path: Path) -> None:
    assert cdi.find_devices([], directories=[tmp_path / "nope"]) == []
    with pytest.raises(NotFound, match=r"no CDI device a\.b/c=x in .*nope"):
        cdi.find_devices(["a.b/c=x"], directories=[tmp_path / "nope"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cdiVersion": "9"}, "cdiVersion is '9'"),
        ({"cdiVersion": None}, "cdiVersion is None"),
        ({"kind": "nothing"}, "kind is 'nothing'; it must be vendor/class"),
        ({"kind": "-a/b"}, "kind is '-a/b'"),
        ({"devices": []}, "it has no devices"),
        ({"devices": [{"name": "x"}]}, "device 'x' changes nothing"),
        ({"devices": [{"name": "-"}]}, "'-' is not the name of a device"),
        ({"devices": ["x"]}, "None is not the name of a device"),
        ({"devices": [DEVICE, DEVICE]}, "device 'x' is there twice"),
        ({"containerEdits": {"env": ["A"]}}, "environment variable 'A' is not NAME=value"),
        ({"containerEdits": {"mount": []}}, "are not edits of a container"),
        ({"containerEdits": {"deviceNodes": [{}]}}, "a device node without a path"),
        ({"containerEdits": {"deviceNodes": [{"path": "/x", "type": "z"}]}}, "wrong type or permissions"),
        ({"containerEdits": {"deviceNodes": ["/x"]}}, "can't be used"),
        ({"containerEdits": {"hooks": [{"hookName": "later", "path": "/x"}]}}, "is not a hook"),
        ({"containerEdits": {"mounts": [{"hostPath": "/x"}]}}, "a mount needs hostPath and containerPath"),
        ({"containerEdits": {"intelRdt": {"closID": ".."}}}, "closID is '..'"),
        ({"containerEdits": {"netDevices": [{"hostInterfaceName": "eth0"}]}}, "network devices are newer"),
    ],
)
def test_a_file_that_is_wrong(directories: tuple[Path, Path], changes: dict[str, Any], words: str) -> None:
    _put(directories[0], **changes)
    with pytest.raises(NotFound) as caught:
        cdi.find_devices(["a.b/c=x"], directories=directories)
    assert words in str(caught.value)


def test_a_yaml_file_that_is_wrong(directories: tuple[Path, Path]) -> None:
    (directories[0] / "a.yaml").write_text("a: [")
    with pytest.raises(NotFound, match=r"a\.yaml can't be used"):
        cdi.find_devices(["a.b/c=x"], directories=directories)


def test_yaml_needs_pyyaml(directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (directories[0] / "a.yaml").write_text("cdiVersion: 0.5.0")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(NotFound, match="it is YAML, and PyYAML is not installed: pip install pyyaml"):
        cdi.find_devices(["a.b/c=x"], directories=directories)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"path": "/dev/caio-nothing"}, "there is no device /dev/caio-nothing"),
        ({"path": "/dev/x", "hostPath": "/etc/passwd"}, "/etc/passwd is not a device node"),
        ({"path": "/dev/x", "hostPath": "/dev/null", "type": "b"}, "of type b, but /dev/null is of type c"),
    ],
)
async def test_a_node_the_host_lacks(
    directories: tuple[Path, Path], node: dict[str, Any], words: str
) -> None:
    _put(directories[0], devices=[{"name": "x", "containerEdits": {"deviceNodes": [node]}}])
    context = SpecContext()
    before = await generate_spec(context)
    with pytest.raises(FailedPrecondition, match=words):
        await generate_spec(context, with_cdi_devices("a.b/c=x", directories=directories))
    assert before == await generate_spec(context)


async def test_a_node_with_its_major_alone(directories: tuple[Path, Path]) -> None:
    node = {"path": "/dev/x", "hostPath": "/dev/zero", "major": 9}
    _put(directories[0], devices=[{"name": "x", "containerEdits": {"deviceNodes": [node]}}])
    spec = await generate_spec(SpecContext(), with_cdi_devices("a.b/c=x", directories=directories))
    assert spec["linux"]["devices"] == [{"path": "/dev/x", "type": "c", "major": 9, "minor": 0}]
