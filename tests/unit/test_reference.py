"""Names of images."""

from __future__ import annotations

import pytest

from containerd_aio.distribution.reference import Reference, normalize_name, parse_familiar, parse_reference
from containerd_aio.errors import InvalidArgument

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("someone/app", "docker.io/someone/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("example.com:5000/a/b/c", "example.com:5000/a/b/c:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("registry.example.com/a__b/c-d.e", "registry.example.com/a__b/c-d.e:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}"),
    ],
)
def test_what_is_left_out_is_filled_in(text: str, full: str) -> None:
    assert normalize_name(text) == full
    assert normalize_name(full) == full


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/someone/app:1", "someone/app:1"),
        ("docker.io/library/a/b:1", "library/a/b:1"),
        ("quay.io/library/app:1", "quay.io/library/app:1"),
    ],
)
def test_the_familiar_form(full: str, short: str) -> None:
    assert parse_familiar(full).familiar == short


def test_the_parts() -> None:
    reference = parse_familiar(f"example.com:80/a/b:1@{DIGEST}")
    assert reference == Reference("example.com:80", "a/b", "1", DIGEST)
    assert reference.name == "example.com:80/a/b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a repository"),
        ("Busybox", "lower case"),
        ("example.com/App", "'App' is not a repository; it must be in lower case"),
        ("busybox:", "'' is not a tag"),
        ("busybox:" + "x" * 129, "not a tag"),
        ("busybox:-x", "not a tag"),
        ("busybox@sha256:short", "64 hex digits"),
        ("busybox@md5:" + "0" * 32, "algorithm"),
        ("a//b", "not a repository"),
        ("-example.com/a", "not a host"),
        ("https://example.com/a", "'https' is a scheme"),
        ("a" * 256, "at most 255"),
        (" busybox", "not a repository"),
        ("localhost:99999/a", "'localhost:99999' is not a host"),
        ("[:]/a", "not a host"),
    ],
)
def test_what_is_no_name(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse_familiar(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("docker.io/library/redis:foo", ("docker.io", "library/redis", "foo", "")),
        (f"docker.io/library/redis:foo@{DIGEST}", ("docker.io", "library/redis", "foo", DIGEST)),
        (f"docker.io/library/redis@{DIGEST}", ("docker.io", "library/redis", "", DIGEST)),
        ("localhost:5000/library/redis:obj", ("localhost:5000", "library/redis", "obj", "")),
        ("docker.io/library/redis", ("docker.io", "library/redis", "", "")),
        ("sub-dom1.foo.com/bar/baz/quux:some-long-tag", ("sub-dom1.foo.com", "bar/baz/quux", "some-long-tag", "")),
        ("b.gcr.io/test.example.com/my-app:test.example.com", ("b.gcr.io", "test.example.com/my-app", "test.example.com", "")),
        ("xn--n3h.com/myimage:xn--n3h.com", ("xn--n3h.com", "myimage", "xn--n3h.com", "")),
        ("busybox/app:1", ("busybox", "app", "1", "")),
    ],
)  # fmt: skip
@pytest.mark.shows("go:TestReferenceParser")
def test_a_full_name_is_taken_as_it_is(text: str, parts: tuple[str, str, str, str]) -> None:
    assert parse_reference(text) == Reference(*parts)
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("busybox", "'busybox' names no registry"),
        ("/docker.io/library/redis:obj", "names no registry"),
        ("http://xn--7o8h.com/myimage:1", "'http' is a scheme"),
        ("docker.io/library/redis:foo?fooo=asdf", "'foo\\?fooo=asdf' is not a tag"),
        ("docker.io/library/redis:obj@abcdef", "'abcdef' is not a digest"),
        ("docker.io/Library/redis", "'Library/redis' is not a repository; it must be in lower case"),
        ("-x/redis", "'-x' is not a host"),
    ],
)
def test_what_is_no_full_name(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse_reference(text)
