"""Default specs by release and platform; making, reading and combining specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import (
    Spec,
    SpecContext,
    apply_opts,
    compose,
    default_spec,
    from_json,
    generate_spec,
    read_spec,
    to_json,
    with_env,
    with_hostname,
    with_process_args,
    with_spec_from_bytes,
    with_spec_from_file,
)

POWERCAP = "/sys/devices/virtual/powercap"


@pytest.mark.parametrize(
    ("version", "oci_version", "powercap", "inheritable"),
    [
        ("1.5.18", "1.0.2-dev", False, True),
        ("1.6.0", "1.0.2-dev", False, True),
        ("1.6.2", "1.0.2-dev", False, False),
        ("1.6.20~ds1", "1.0.2-dev", False, False),
        ("v1.6.25", "1.0.2-dev", False, False),
        ("1.6.26", "1.0.2-dev", True, False),
        ("1.6.39", "1.0.2-dev", True, False),
        ("1.7.0", "1.1.0-rc.1", False, False),
        ("1.7.11", "1.1.0-rc.1", True, False),
        ("1.7.12", "1.1.0", True, False),
        ("v1.7.24", "1.1.0", True, False),
        ("1.7.24~ds1", "1.2.0", True, False),
        ("2.0.0", "1.2.0", True, False),
        ("v2.0.11-15-gabcdef0.m", "1.2.0", True, False),
        ("2.1.9+unknown", "1.2.1", True, False),
        ("2.1", "1.2.1", True, False),
        ("2.2.0", "1.2.1", True, False),
        ("2.2.1", "1.3.0", True, False),
        ("3.0.0", "1.3.0", True, False),
        ("main", "1.3.0", True, False),
        ("", "1.3.0", True, False),
        (None, "1.2.1", True, False),
    ],
)
async def test_what_a_release_decides(
    version: str | None, oci_version: str, powercap: bool, inheritable: bool
) -> None:
    spec = await generate_spec(SpecContext(version=version, platform="linux"))
    assert spec["ociVersion"] == oci_version
    assert (POWERCAP in spec["linux"]["maskedPaths"]) is powercap
    assert ("inheritable" in spec["process"]["capabilities"]) is inheritable


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        (
            "windows(10.0.17763)/amd64",
            r'{"ociVersion":"1.2.1","process":{"user":{"uid":0,"gid":0},"cwd":"C:\\"},"root":{"path":""},"windows":{"layerFolders":null}}',
        ),
        (
            "darwin/arm64/v8",
            '{"ociVersion":"1.2.1","process":{"user":{"uid":0,"gid":0},"cwd":"/"},"root":{"path":""}}',
        ),
        ("macos", '{"ociVersion":"1.2.1","process":{"user":{"uid":0,"gid":0},"cwd":"/"},"root":{"path":""}}'),
    ],
)
async def test_other_platforms(platform: str, expected: str) -> None:
    assert to_json(await generate_spec(SpecContext(platform=platform))).decode() == expected


async def test_freebsd_has_its_own_mounts() -> None:
    spec = await generate_spec(SpecContext(platform="freebsd"))
    assert spec["mounts"] == [
        {"destination": "/dev", "type": "devfs", "source": "devfs", "options": ["ruleset=4"]},
        {"destination": "/dev/fd", "type": "fdescfs", "source": "fdescfs"},
    ]
    assert spec["linux"]["cgroupsPath"] == "/default"


@pytest.mark.parametrize("platform", ["amd64", "plan9", "", "/amd64"])
async def test_unknown_platform(platform: str) -> None:
    with pytest.raises(InvalidArgument, match="no default spec is known for platform"):
        await generate_spec(SpecContext(platform=platform))


def test_this_machine_is_the_default_platform() -> None:
    assert SpecContext().os == "linux"


@pytest.mark.parametrize(
    ("namespace", "container_id", "path"),
    [("default", "", "/default"), ("k8s.io", "a.b", "/k8s.io/a.b")],
)
def test_cgroup_path(namespace: str, container_id: str, path: str) -> None:
    spec = default_spec("linux", namespace=namespace, container_id=container_id)
    assert spec["linux"]["cgroupsPath"] == path


def test_a_namespace_is_needed() -> None:
    with pytest.raises(InvalidArgument, match="namespace is needed"):
        default_spec("linux", namespace="", container_id="x")


def test_default_specs_share_nothing() -> None:
    def numbers(value: Any) -> set[int]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        found = {id(value)} if isinstance(value, dict | list) else set()
        return found.union(*map(numbers, inner))

    one = default_spec("linux", namespace="n", container_id="x")
    other = default_spec("linux", namespace="n", container_id="x")
    assert not numbers(one) & numbers(other)


async def test_options_apply_in_order_sync_and_async() -> None:
    async def mark(context: SpecContext, spec: Spec) -> None:
        spec["hostname"] += "-" + context.container_id

    spec = await generate_spec(SpecContext(container_id="c"), with_hostname("a"), mark, compose(mark, mark))
    assert spec["hostname"] == "a-c-c-c"


async def test_an_option_can_be_used_for_many_specs() -> None:
    opt = compose(
        with_process_args("sh"),
        with_spec_from_bytes('{"ociVersion":"1","mounts":[{"destination":"/m"}]}'),
        with_env(["A=1"]),
    )
    first = await generate_spec(SpecContext(), opt)
    first["process"]["env"].append("B=2")
    first["mounts"].append({"destination": "/x"})
    assert await generate_spec(SpecContext(), opt) == {
        "ociVersion": "1",
        "mounts": [{"destination": "/m"}],
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "", "env": ["A=1"]},
    }


async def test_the_option_that_raised_changed_nothing_those_before_it_stay() -> None:
    spec: Spec = {"ociVersion": "1"}
    with pytest.raises(InvalidArgument):
        await apply_opts(SpecContext(), spec, with_hostname("a"), with_spec_from_file("/dev/null"))
    assert spec == {"ociVersion": "1", "hostname": "a"}


async def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="is not an option of the spec"):
        await apply_opts(SpecContext(), {"ociVersion": "1"}, "with_tty")  # type: ignore[arg-type]


async def test_read_spec(tmp_path: Path) -> None:
    spec = await generate_spec(SpecContext(container_id="x"), with_process_args("<", "é"))
    tmp_path.joinpath("config.json").write_bytes(to_json(spec))
    assert await read_spec(tmp_path / "config.json") == spec
    assert await generate_spec(SpecContext(), with_spec_from_file(str(tmp_path / "config.json"))) == spec


async def test_read_spec_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no spec file .*nope"):
        await read_spec(tmp_path / "nope")
    with pytest.raises(InvalidArgument, match="can't be read: Is a directory"):
        await read_spec(tmp_path)
    broken = tmp_path / "broken"
    broken.write_text('{"ociVersion": 1}')
    with pytest.raises(InvalidArgument, match=r"broken: Spec\.ociVersion must be a string"):
        await read_spec(broken)


async def test_nulls_are_absent_as_in_go() -> None:
    data = (
        '{"process":null,"linux":{"resources":null},"mounts":null,"root":null,"annotations":null,"mine":null}'
    )
    assert from_json(data) == {"ociVersion": "", "linux": {}, "mine": None}
    spec = await generate_spec(SpecContext(), with_spec_from_bytes(data), with_process_args("sh"))
    assert spec["process"] == {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": ""}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff{}", "nope", b"[]", b'"x"', b"null"])
def test_not_a_spec(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        from_json(data)
