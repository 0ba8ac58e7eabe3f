import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio.errors import InvalidArgument
from containerd_aio.stdio.uris import binary_uri, check_log_uri, file_uri


@pytest.mark.parametrize(
    "uri", ["file:///var/log/x", "binary:///bin/x", "binary:///bin/x?b=2&a=1", "file:///a%20b"]
)
def test_good(uri):
    assert check_log_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "file://"),
        ("/var/log/x", "file://"),
        ("fifo:///x", "file://"),
        ("file://var/log/x", "three slashes"),
        ("file://localhost/x", "three slashes"),
        ("file:x", "three slashes"),
        ("binary://", "three slashes"),
        ("file:///", "directory"),
        ("file:///var/log/", "directory"),
        ("file:///a b", "percent-encode"),
        ("file:///a\n", "percent-encode"),
        ("file:///a?b", "ignored"),
        ("file:///a#b", "ignored"),
        ("binary:///a#b", "ignored"),
        ("file://[x/y", "file://"),
    ],
)
def test_bad(uri, why):
    with pytest.raises(InvalidArgument, match=why):
        check_log_uri(uri)


def test_a_terminal_is_not_logged_to_a_file():
    with pytest.raises(InvalidArgument, match="binary"):
        check_log_uri("file:///x", terminal=True)
    check_log_uri("binary:///x", terminal=True)


def test_arguments_are_sorted_and_encoded():
    assert binary_uri("/bin/log", {"b": "x y", "a": "1&2"}) == "binary:///bin/log?a=1%262&b=x+y"
    assert binary_uri("/bin/log") == binary_uri("/bin/log", {}) == "binary:///bin/log"


def test_paths_are_encoded():
    assert file_uri("/var/log/50% done?#.log") == "file:///var/log/50%25%20done%3F%23.log"
    assert file_uri("//x") == "file:///x"


@pytest.mark.parametrize("path", ["", "x.log", "./x", "/var/log/"])
def test_paths_that_name_no_file(path):
    with pytest.raises(InvalidArgument):
        file_uri(path)


@given(st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1))
def test_any_file_name_makes_a_good_uri(name):
    check_log_uri(file_uri(f"/dir/{name}"))
