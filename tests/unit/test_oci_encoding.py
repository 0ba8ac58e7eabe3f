"""`to_json` writes what Go's ``encoding/json`` writes for the OCI Go types."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import LinuxResources, Process, Spec, from_json, to_json

DATA = Path(__file__).parent / "data" / "oci"
VERSIONS = ["1.0.2-dev", "1.2.1", "1.3.0"]


def golden(version: str) -> dict[str, str]:
    data: dict[str, str] = json.loads((DATA / f"types-{version}.json").read_text())
    return data


def shuffled(value: Any, dice: random.Random) -> Any:
    if isinstance(value, dict):
        names = list(value)
        dice.shuffle(names)
        return {name: shuffled(value[name], dice) for name in names}
    return [shuffled(each, dice) for each in value] if isinstance(value, list) else value


def zeroed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: zeroed(each) for name, each in value.items()}
    if isinstance(value, list):
        return [zeroed(each) for each in value] if isinstance(value[0], dict) else []
    return type(value)()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("which", ["filled", "zero", "empty"])
def test_every_field_of_every_type_is_written_in_gos_order(version: str, which: str) -> None:
    text = golden(version)[which]
    assert to_json(shuffled(json.loads(text), random.Random(7))).decode() == text


@pytest.mark.parametrize("version", VERSIONS)
def test_zeros_are_dropped_and_kept_as_go_does(version: str) -> None:
    spec = zeroed(json.loads(golden(version)["filled"]))
    spec["windows"].pop("credentialSpec")  # Go's value was nil
    for free in (spec["windows"], spec["linux"]["seccomp"]["syscalls"][0]):
        for name in (
            "layerFolders",
            "names",
        ):  # lists without omitempty: Go's nil is null, an empty list is []
            free.pop(name, None)
    assert to_json(spec).decode() == golden(version)["zero"]


def test_none_counts_as_absent() -> None:
    spec: Any = {
        "ociVersion": "1",
        "process": None,
        "hostname": None,
        "linux": {"resources": None, "seccomp": None},
    }
    assert to_json(spec) == b'{"ociVersion":"1","linux":{}}'


def test_strings_are_escaped_like_gos() -> None:
    odd = '<a href="x">&\u2028\u2029é\U0001f600\b\f\n\r\t\x01\x7f\\/'
    spec: Spec = {"ociVersion": "1", "annotations": {"<": odd}}
    expected = (
        r'{"ociVersion":"1","annotations":{"\u003c":"\u003ca href=\"x\"\u003e\u0026\u2028\u2029é'
        "\U0001f600" + r"\b\f\n\r\t\u0001" + "\x7f" + r'\\/"}}'
    )
    assert to_json(spec).decode() == expected


def test_map_keys_are_sorted() -> None:
    spec: Spec = {
        "ociVersion": "1",
        "annotations": {"b": "", "a": "", "\U0001f600": "", "\uff61": "", "B": ""},
    }
    assert list(json.loads(to_json(spec))["annotations"]) == ["B", "a", "b", "\uff61", "\U0001f600"]


def test_unknown_fields_survive_behind_the_known_ones_in_their_order() -> None:
    data = b'{"ociVersion":"9","process":{"user":{"uid":0,"gid":0},"cwd":"/","z":{"b":[1,{"y":0,"x":0}],"a":null}},"q":1.5}'
    assert to_json(from_json(data)) == data


def test_indented() -> None:
    spec: Any = {"process": {"args": ["a", "<"], "env": []}, "ociVersion": "1", "windows": {}}
    assert to_json(spec, indent=4).decode() == (
        '{\n    "ociVersion": "1",\n    "process": {\n        "user": {\n            "uid": 0,\n            "gid": 0\n'
        '        },\n        "args": [\n            "a",\n            "\\u003c"\n        ],\n        "cwd": ""\n    },\n'
        '    "windows": {\n        "layerFolders": null\n    }\n}'
    )


def test_other_objects_than_specs() -> None:
    process: Process = {"cwd": "/", "args": ["sh"], "user": {"gid": 1, "uid": 2}}
    assert to_json(process, kind=Process) == b'{"user":{"uid":2,"gid":1},"args":["sh"],"cwd":"/"}'
    resources: LinuxResources = {"pids": {"limit": 0}, "memory": {"limit": 0}, "unified": {}}
    assert to_json(resources, kind=LinuxResources) == b'{"memory":{"limit":0},"pids":{"limit":0}}'


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "Spec must be an object"),
        ({"process": []}, "Spec.process must be an object"),
        ({"process": {"args": "sh -c true"}}, "Spec.process.args must be a list, not 'sh -c true'"),
        ({"process": {"args": [1]}}, "Spec.process.args[0] must be a string, not 1"),
        ({"process": {"args": b"x"}}, "Spec.process.args must be a list"),
        ({"process": {"user": {"uid": "0"}}}, "Spec.process.user.uid must be an integer, not '0'"),
        ({"process": {"user": {"uid": True}}}, "Spec.process.user.uid must be an integer"),
        ({"process": {"user": {"uid": 1.0}}}, "Spec.process.user.uid must be an integer"),
        ({"process": {"terminal": 1}}, "Spec.process.terminal must be true or false, not 1"),
        ({"annotations": ["a"]}, "Spec.annotations must be an object"),
        ({"annotations": {"a": 1}}, "Spec.annotations['a'] must be a string"),
        ({"annotations": {1: "a"}}, "a name in Spec.annotations must be a string, not 1"),
        ({"linux": {"namespaces": [{"type": 1}]}}, "Spec.linux.namespaces[0].type must be a string"),
        ({"mounts": {"/": {}}}, "Spec.mounts must be a list"),
        ({"hostname": "\udcff"}, "Spec.hostname is not valid Unicode"),
        ({"mine": {"deep": ["\udcff"]}}, "Spec.mine.deep[0] is not valid Unicode"),
        ({"mine": {1: 2}}, "a name in Spec.mine must be a string"),
        ({"mine": float("nan")}, "can't be written as JSON"),
        ({"mine": object()}, "can't be written as JSON"),
        ({1: 2}, "a name in Spec must be a string"),
    ],
)
def test_a_wrong_value_is_named(spec: Any, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        to_json(spec)
    assert words in str(caught.value)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
free = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@given(args=st.lists(text, min_size=1), annotations=st.dictionaries(text, text, min_size=1), extra=free)
def test_what_is_written_is_read_again(args: list[str], annotations: dict[str, str], extra: Any) -> None:
    spec: Any = {
        "ociVersion": "1",
        "process": {"user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/"},
        "annotations": annotations,
        "windows": {"layerFolders": None},
        "extra": extra,
    }
    data = to_json(spec)
    assert json.loads(data) == spec
    assert to_json(json.loads(data)) == data
    assert not set("<>&\u2028\u2029") & set(data.decode())
