"""``scripts/testbed.py``: reading apt's sources, fetching, and saying what is left out. No network is used."""

import json
import os
import subprocess
import sys

import pytest
import testbed

DEB822 = """
Types: deb
# a comment between the fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://third.example/repo bookworm main stable
deb http://plain.example/debian/ bookworm main contrib # with a remark
deb-src http://plain.example/debian bookworm main
deb http://flat.example/packages ./
"""


def test_deb822_sources_are_read():
    sources = list(testbed.parse_deb822(DEB822))
    assert [source.uri for source in sources] == [
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    ]
    assert sources[0].suites == ("bookworm", "bookworm-updates")
    assert sources[0].signed_by.endswith("debian-archive-keyring.gpg")


def test_one_line_sources_are_read():
    sources = list(testbed.parse_one_line(ONE_LINE))
    assert [(source.uri, source.components) for source in sources] == [
        ("https://third.example/repo", ("main", "stable")),
        ("http://plain.example/debian/", ("main", "contrib")),
        ("http://flat.example/packages", ()),
    ]
    assert sources[0].signed_by == "/usr/share/keyrings/x.gpg"


def test_the_debian_archive_is_told_from_security_and_third_parties(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d" / "a.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "old.save").write_text(ONE_LINE)
    assert testbed.debian_archive(testbed.apt_sources(tmp_path)) == "http://mirror.example/debian"
    (tmp_path / "sources.list.d" / "debian.sources").unlink()
    assert testbed.debian_archive(testbed.apt_sources(tmp_path)) == "http://plain.example/debian/"
    with pytest.raises(testbed.TestbedError, match="no Debian archive"):
        testbed.debian_archive([])


@pytest.fixture
def policy(tmp_path, monkeypatch):
    path = tmp_path / "policy-rc.d"
    monkeypatch.setattr(testbed, "POLICY", path)
    return path


def test_services_are_held_back_meanwhile_and_only_meanwhile(policy):
    with testbed.no_services():
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()

    policy.write_text("mine")
    with pytest.raises(ZeroDivisionError), testbed.no_services():
        assert policy.read_text() != "mine"
        _ = 1 // 0
    assert policy.read_text() == "mine"
    assert [path.name for path in policy.parent.iterdir()] == [policy.name]


def test_a_policy_that_a_killed_run_put_aside_comes_back(policy):
    policy.write_text("left by the killed run")
    policy.with_name("policy-rc.d.kept-by-testbed").write_text("mine")
    with testbed.no_services():
        pass
    assert policy.read_text() == "mine"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An apt that has one small package in any suite but ``forky``, fails once for each download, and notes its calls."""
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    control = "Package: containerd\nVersion: 1.7.99~ds1-1\nArchitecture: all\nMaintainer: m <m@example>\nDescription: d\n"
    (package / "DEBIAN" / "control").write_text(control)
    (package / "usr" / "bin").mkdir(parents=True)
    (package / "usr" / "bin" / "containerd").write_text("#!/bin/sh\n")
    subprocess.run(["dpkg-deb", "--build", package, tmp_path / "containerd_1.7.99~ds1-1_all.deb"], check=True, capture_output=True)  # fmt: skip
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    apt = bin_dir / "apt-get"
    apt.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
case "$@" in
*download*) test -e failed || {{ touch failed; echo "the mirror hiccups" >&2; exit 100; }}; cp {tmp_path}/*.deb . ;;
*update*) for option; do case $option in Dir::Etc::sourcelist=*) ! grep -q forky "${{option#*=}}" || {{ echo "E: no forky" >&2; exit 100; }};; esac; done ;;
esac
""")
    apt.chmod(0o755)
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    monkeypatch.setenv("CONTAINERD_AIO_TESTBED", str(tmp_path / "cache"))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(testbed, "KEYRING", keyring)
    monkeypatch.setattr(testbed, "RETRY_DELAY", 0)
    monkeypatch.setattr(testbed, "own_containerd", lambda: ("1.6.20~ds1", "/usr/bin/containerd"))
    monkeypatch.setattr(testbed, "apt_sources", lambda: list(testbed.parse_deb822(DEB822)))
    return tmp_path


def test_a_package_is_fetched_with_patience_and_once(machine, capsys):
    folder = machine / "cache" / "trixie" / "containerd"
    testbed.fetch("trixie", ["containerd"], folder)
    assert (folder / "usr" / "bin" / "containerd").exists()
    assert json.loads((folder / "packages.json").read_text()) == {"containerd": "1.7.99~ds1-1"}
    assert [path.name for path in folder.parent.iterdir()] == ["containerd"]
    assert "trying again" in capsys.readouterr().err
    calls = (machine / "calls").read_text().splitlines()
    assert len(calls) == 3  # update, download, download
    assert all(
        "Dir::State::status=/dev/null" in call and "Dir::Etc::sourceparts=/dev/null" in call for call in calls
    )


def test_what_cannot_be_had_is_named_and_the_rest_is_there(machine, capsys):
    assert testbed.main(["containerds"]) == 1
    errors = capsys.readouterr().err
    assert "containerd 1.7: 1.7.99~ds1-1 at " in errors
    assert "containerd 2.1 is left out" in errors
    assert "E: no forky" in errors
    assert testbed.main(["list"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert list(listing) == ["1.6", "1.7"]
    assert listing["1.7"]["path"] == [str(machine / "cache" / "trixie" / "containerd" / "usr" / "bin")]
    assert listing["1.6"]["path"] == []

    before = (machine / "calls").read_text()
    assert testbed.main(["containerds"]) == 1
    assert "trixie" not in (machine / "calls").read_text().removeprefix(before)


def test_criu_is_run_by_the_loader_it_came_with(machine, monkeypatch, capsys):
    def unpack(suite, packages, folder):
        assert suite == "trixie"
        assert {"criu", "libc6"} <= {*packages}
        for name in ("usr/lib/here/ld-linux-any.so.2", "usr/sbin/criu"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text('#!/bin/sh\necho "$(basename "$0")" "$(basename "$3")" "$4"\n')
            (folder / name).chmod(0o755)

    monkeypatch.setattr(testbed, "fetch", unpack)
    assert testbed.criu_dir() is None
    assert testbed.main(["criu"]) == 0
    folder = testbed.criu_dir()
    assert capsys.readouterr().out == f"{folder}\n"
    moved = (machine / "cache").rename(machine / "moved elsewhere") / folder.relative_to(machine / "cache")
    done = subprocess.run([moved / "criu", "check"], capture_output=True, text=True, check=True)
    assert done.stdout == "ld-linux-any.so.2 criu check\n"


def test_criu_without_its_loader_is_left_out(machine, monkeypatch, capsys):
    monkeypatch.setattr(testbed, "fetch", lambda *of: of[2].mkdir(parents=True))
    assert testbed.main(["criu"]) == 1
    assert "CRIU is left out, and the tests of checkpoints" in capsys.readouterr().err
    assert testbed.criu_dir() is None


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("false", 0), ("true", 1), ("1", 1)])
def test_a_gap_is_a_failure_in_ci_only(machine, monkeypatch, capsys, ci, code):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(testbed, "do_system", lambda: None)
    monkeypatch.setattr(testbed, "obstacles", lambda: ["not root"])
    assert testbed.main(["all"]) == code
    errors = capsys.readouterr().err
    assert "containerd 2.1 is left out" in errors
    assert "reference .proto files are left out" in errors
    assert "integration tests are left out: not root" in errors


def test_without_root_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(testbed, "missing_packages", lambda: ["runc", "busybox-static"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(testbed.TestbedError, match=r"not root.*runc busybox-static"):
        testbed.do_system()
    assert testbed.obstacles() == ["not root"]


def test_it_needs_nothing_but_the_standard_library():
    code = f"import runpy, sys; sys.argv[1:] = ['list']; runpy.run_path({testbed.__file__!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
