"""Which hosts serve a registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerd_aio.distribution.hosts import (
    Capability,
    RegistryHost,
    configured_hosts,
    default_host,
    is_local,
)
from containerd_aio.errors import InvalidArgument


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("registry", "plain", "url", "skip", "fallback"),
    [
        ("docker.io", False, "https://registry-1.docker.io/v2", False, False),
        ("quay.io", False, "https://quay.io/v2", False, False),
        ("quay.io:5000", True, "http://quay.io:5000/v2", False, False),
        ("localhost", False, "https://localhost/v2", True, False),
        ("localhost:443", False, "https://localhost:443/v2", True, False),
        ("localhost:80", False, "http://localhost:80/v2", False, False),
        ("localhost:5000", False, "https://localhost:5000/v2", True, True),
        ("127.0.0.9:5000", False, "https://127.0.0.9:5000/v2", True, True),
        ("[::1]:5000", False, "https://[::1]:5000/v2", True, True),
        ("localhost:5000", True, "http://localhost:5000/v2", False, False),
    ],
)
def test_defaults(registry: str, plain: bool, url: str, skip: bool, fallback: bool) -> None:
    host = default_host(registry, plain_http=plain)
    assert (host.url, host.skip_verify, host.http_fallback) == (url, skip, fallback)
    assert host.capabilities == set(Capability)


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("a.localhost:1", True), ("127.1.2.3", True), ("[::1]:5", True), ("localhost.io", False),
     ("10.0.0.1:5000", False), ("127.0.0.1.example.com", False)],
)  # fmt: skip
def test_local_hosts(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.shows("go:TestParseHostFile")
def test_a_file_with_everything(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "docker.io/hosts.toml",
        """
        server = "https://registry-1.docker.io"
        ca = "root.crt"
        [host."https://mirror.example.com"]
          capabilities = ["pull", "resolve"]
          ca = ["a.crt", "/etc/b.crt"]
          client = [["x.cert", "x.key"], ["y.pem", ""]]
          dial_timeout = "500ms"
        [host."http://plain.example.com/prefix"]
          skip_verify = true
          [host."http://plain.example.com/prefix".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."https://path.example.com/v2/proxy"]
          override_path = true
          client = "z.pem"
        [host."bare.example.com"]
        [host."localhost:5000"]
        """,
    )
    mirror, plain, path, bare, local, root = configured_hosts("docker.io", tmp_path)
    here = file.parent
    assert mirror == RegistryHost(
        "https://mirror.example.com/v2",
        frozenset({Capability.PULL, Capability.RESOLVE}),
        ca=(f"{here}/a.crt", "/etc/b.crt"),
        client=((f"{here}/x.cert", f"{here}/x.key"), (f"{here}/y.pem", None)),
        dial_timeout=0.5,
        source=str(file),
    )
    # TLS was configured, so it is tried first, whatever the scheme says.
    assert (plain.url, plain.http_fallback, plain.skip_verify) == (
        "https://plain.example.com/prefix/v2",
        True,
        True,
    )
    assert plain.headers == {"x-one": ("1",), "x-two": ("2", "3")}
    assert (path.url, path.client) == ("https://path.example.com/v2/proxy", ((f"{here}/z.pem", None),))
    assert bare.url == "https://bare.example.com/v2"
    assert local.url == "http://localhost:5000/v2"
    assert (root.url, root.ca) == ("https://registry-1.docker.io/v2", (f"{here}/root.crt",))
    assert bare.capabilities == set(Capability)


def test_without_a_server_the_registry_itself_comes_last(tmp_path: Path) -> None:
    write(tmp_path, "quay.io/hosts.toml", '[host."https://mirror.example.com"]')
    assert [h.url for h in configured_hosts("quay.io", tmp_path)] == [
        "https://mirror.example.com/v2",
        "https://quay.io/v2",
    ]


def test_which_directory(tmp_path: Path) -> None:
    for name in ("a.io_5000_", "a.io:5000", "a.io", "_default"):
        write(tmp_path, f"{name}/hosts.toml", f'server = "https://{name.strip("_").replace("_", "-")}.of"')

    def server(registry: str) -> str:
        return configured_hosts(registry, tmp_path)[0].host

    assert server("a.io") == "a.io.of"
    assert server("a.io:5000") == "a.io-5000.of"
    assert server("b.io") == "default.of"
    (tmp_path / "a.io_5000_" / "hosts.toml").unlink()
    (tmp_path / "a.io_5000_").rmdir()
    assert configured_hosts("a.io:5001", tmp_path)[0].host == "default.of"


def test_dockers_directories(tmp_path: Path) -> None:
    folder = tmp_path / "a.io:5000"
    for name in ("one.crt", "two.crt", "x.cert", "x.key", "README"):
        write(folder, name, "")
    [host] = configured_hosts("a.io:5000", tmp_path)
    assert host.ca == (f"{folder}/one.crt", f"{folder}/two.crt")
    assert host.client == ((f"{folder}/x.cert", f"{folder}/x.key"),)
    assert host.source == str(folder)
    (folder / "x.key").unlink()
    with pytest.raises(InvalidArgument, match=r"x\.cert has no key"):
        configured_hosts("a.io:5000", tmp_path)


def test_an_authority_for_this_machine_is_used(tmp_path: Path) -> None:
    write(tmp_path, "localhost:5000/ca.crt", "")
    [host] = configured_hosts("localhost:5000", tmp_path)
    assert not host.skip_verify


def test_an_empty_directory_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "quay.io").mkdir()
    assert configured_hosts("quay.io", tmp_path) == [default_host("quay.io")]
    assert configured_hosts("other.io", tmp_path) == [default_host("other.io")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("server =", r"hosts\.toml: "),
        ("server = 5", "server is 5"),
        ('host = "x"', "host is not a table of tables"),
        ("[host]\nx = 1", "host is not a table of tables"),
        ('[host."ftp://x"]', "'ftp://x' is not the URL of a host"),
        ('[host."https://x?y"]', "is not the URL"),
        (
            '[host."https://x"]\ncapabilities = ["fly"]',
            "'fly' is not a valid Capability; capabilities are pull",
        ),
        ('[host."https://x"]\nskip_verify = "yes"', "skip_verify is 'yes'; expected true or false"),
        ('[host."https://x"]\nca = [1]', "ca is 1"),
        ('[host."https://x"]\nclient = [["a", "b", "c"]]', "expected certificate and key"),
        ('[host."https://x"]\nheader = 3', "header is not a table"),
        ('[host."https://x"]\ndial_timeout = "soon"', "dial_timeout is 'soon'"),
        ('[host."https://[::1"]', "is not the URL"),
        ('server = "https://x:99999"', "is not the URL"),
        ('[host."https://x"]\nheader = {A = "hush\\nB: c"}', "header 'A' cannot be sent"),
        ("a = " + "[" * 9000, r"hosts\.toml: "),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, text: str, why: str) -> None:
    write(tmp_path, "quay.io/hosts.toml", text)
    with pytest.raises(InvalidArgument, match=why) as caught:
        configured_hosts("quay.io", tmp_path)
    assert str(tmp_path / "quay.io" / "hosts.toml") in str(caught.value)


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        configured_hosts("quay.io", tmp_path / "none")


def test_a_password_in_a_url_goes_nowhere(tmp_path: Path) -> None:
    write(tmp_path, "quay.io/hosts.toml", 'server = "https://me:hush@quay.io:444"')
    assert [host.url for host in configured_hosts("quay.io", tmp_path)] == ["https://quay.io:444/v2"]


def test_headers_may_be_secret() -> None:
    assert "hush" not in repr(RegistryHost("https://x/v2", headers={"Authorization": ("hush",)}))
