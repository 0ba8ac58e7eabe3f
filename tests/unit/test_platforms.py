"""Platforms: words, parsing, and what runs where."""

from __future__ import annotations

import pytest

from containerd_aio.distribution.platforms import (
    Platform,
    any_platform,
    default_platform,
    format_platform,
    match_any,
    match_only,
    match_strict,
    normalize,
    parse_platform,
)
from containerd_aio.errors import InvalidArgument


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("linux/x86-64", "linux/amd64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/v5", "linux/arm/v5"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("linux/i686", "linux/386"),
        ("linux/armv6l", "linux/arm/v6"),
        ("plan9/386", "plan9/386"),
    ],
)
def test_parse_and_format(given: str, expected: str) -> None:
    assert format_platform(parse_platform(given), version=True) == expected
    assert parse_platform(expected) == parse_platform(given)


def test_one_word_is_completed_from_this_machine() -> None:
    here = default_platform()
    assert parse_platform("s390x") == Platform(here.os, "s390x")
    assert parse_platform("armhf") == Platform(here.os, "arm", "v7")
    assert parse_platform("freebsd") == Platform("freebsd", here.architecture, here.variant)


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "linux/amd64/v1/x", "linux amd64", "nonsense", "linux/am*64", "a//b"]
)
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(InvalidArgument, match="platform"):
        parse_platform(text)


def test_the_default_is_in_the_words_of_images() -> None:
    assert default_platform() == normalize(default_platform())
    assert default_platform().os == "linux"


@pytest.mark.parametrize(
    ("host", "runs"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/386", ["linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64/v8.1", ["linux/arm64/v8.1", "linux/arm64", "linux/arm/v8"]),
        (
            "linux/arm64/v9.1",
            [
                "linux/arm64/v9.1",
                "linux/arm64/v9",
                "linux/arm64/v8.6",
                "linux/arm64/v8.1",
                "linux/arm64",
                "linux/arm/v8",
            ],
        ),
        ("linux/riscv64", ["linux/riscv64"]),
        ("windows(10.0.17763.1)/amd64", ["windows(10.0.17763.999)/amd64", "windows/amd64"]),
    ],
)
def test_only_matches_what_the_machine_runs_the_best_first(host: str, runs: list[str]) -> None:
    matches = match_only(parse_platform(host))
    ranks = [matches(parse_platform(text)) for text in runs]
    assert None not in ranks
    if host.startswith("windows"):
        assert matches(parse_platform("windows(10.0.20348.1)/amd64")) is None
        return
    assert ranks == sorted(ranks, key=lambda rank: rank if rank is not None else -1)
    assert ranks[0] == 0
    for other in ("windows/amd64", "linux/s390x", "unknown/unknown", "freebsd/amd64"):
        assert (
            matches(parse_platform(other) if other != "unknown/unknown" else Platform("unknown", "unknown"))
            is None
        )


def test_the_error_quotes_the_part() -> None:
    with pytest.raises(InvalidArgument, match=r"platform 'linux/am\*64': 'am\*64' is not understood"):
        parse_platform("linux/am*64")


def test_the_version_is_written_only_when_asked_for() -> None:
    assert format_platform(parse_platform("windows(10.0.17763)/amd64")) == "windows/amd64"


def test_a_newer_variant_does_not_run_on_an_older_machine() -> None:
    assert match_only(parse_platform("linux/arm/v6"))(parse_platform("linux/arm/v7")) is None
    assert match_only(parse_platform("linux/amd64"))(parse_platform("linux/amd64/v3")) is None


def test_strict_any_and_all() -> None:
    strict = match_strict(Platform("linux", "x86_64"))
    assert strict(Platform("linux", "amd64")) == 0
    assert strict(Platform("linux", "386")) is None
    both = match_any([Platform("linux", "s390x"), Platform("linux", "amd64")])
    first, second, third = (both(Platform("linux", a)) for a in ("s390x", "amd64", "386"))
    assert first is not None
    assert second is not None
    assert third is not None
    assert first < second < third
    assert both(Platform("linux", "arm64")) is None
    assert any_platform(Platform("plan9", "mips")) == 0
