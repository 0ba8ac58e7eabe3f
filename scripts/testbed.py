"""The real test bed: what the tests need besides Python packages, found or fetched.

Standard library only: this runs before the virtual environment exists. Everything comes from the machine's own
apt sources, so a mirror, a proxy or a frozen archive configured there is used here too, and apt verifies every
signature. Nothing is installed but Debian packages that are missing; other suites' packages are unpacked into a
git-ignored folder (``.testbed/``, or ``$CONTAINERD_AIO_TESTBED``) and never installed.

    python scripts/testbed.py system            install what the machine lacks (no service is started)
    python scripts/testbed.py containerds       one containerd per release line: 1.6, 1.7, 2.1
    python scripts/testbed.py criu              CRIU, for checkpoints; prints the folder of the command last
    python scripts/testbed.py reference-protos  Debian's .proto files; prints the include directory last
    python scripts/testbed.py all               the four above, each as far as this machine allows
    python scripts/testbed.py list              JSON: what is there
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
POLICY = Path("/usr/sbin/policy-rc.d")
#: Release line of containerd -> the Debian suite that carries it.
SUITES = {"1.6": "bookworm", "1.7": "trixie", "2.1": "forky"}
#: Debian 12's own CRIU fails on newer kernels (its vDSO code), and this one needs a newer libc than Debian 12 has: it
#: comes with all the libraries it is linked to, and is run by their loader.
CRIU_SUITE = "trixie"
CRIU_PACKAGES = (
    "criu",
    "libbsd0",
    "libc6",
    "libcap2",
    "libcompel1",
    "libffi8",
    "libgmp10",
    "libgnutls30t64",
    "libhogweed6t64",
    "libidn2-0",
    "libjansson4",
    "libmd0",
    "libmnl0",
    "libnet1",
    "libnettle8t64",
    "libnftables1",
    "libnftnl11",
    "libnl-3-200",
    "libp11-kit0",
    "libprotobuf-c1",
    "libtasn1-6",
    "libunistring5",
    "libuuid1",
    "libxtables12",
)
REFERENCE_SUITE = "forky"
REFERENCE_PACKAGES = ("golang-github-containerd-containerd-api-dev", "golang-github-containerd-cgroups-dev")
#: What the packages unpack to: the include root of Debian's .proto files.
REFERENCE_INCLUDE = Path("usr/share/gocode/src")
#: A package and the command that shows it is there (None: ask dpkg).
SYSTEM_PACKAGES: dict[str, str | None] = {
    "containerd": "containerd",
    "runc": "runc",
    "busybox-static": None,
    "docker-registry": "docker-registry",
    "iproute2": "ip",
    "iptables": "iptables",
    "containernetworking-plugins": None,
    "mount": "mount",
    "ca-certificates": None,
}
ATTEMPTS = 3
RETRY_DELAY = 2.0


class TestbedError(Exception):
    """Something the test bed needs can't be had; the text names it and what is left out."""


@dataclass(frozen=True)
class Source:
    """One repository of the machine's apt configuration."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""


def say(text: str) -> None:
    """Print one line at once, on stderr: stdout is for answers."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def in_ci() -> bool:
    """Whether this runs in CI, where nothing may be left out."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def cache_dir() -> Path:
    """Where unpacked packages are kept."""
    override = os.environ.get("CONTAINERD_AIO_TESTBED")
    return Path(override).absolute() if override else Path(__file__).resolve().parent.parent / ".testbed"


# -- the machine's apt sources --------------------------------------------------------------------------------


def parse_one_line(text: str) -> Iterator[Source]:
    """Read ``sources.list`` syntax."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>\S[^#]*)", line)
        if match is None:
            continue
        suite, *components = match["rest"].split()
        options = dict(item.split("=", 1) for item in (match["options"] or "").split() if "=" in item)
        yield Source(match["uri"], (suite,), tuple(components), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Read ``*.sources`` syntax."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            suites, components = fields.get("suites", ""), fields.get("components", "")
            yield Source(uri, tuple(suites.split()), tuple(components.split()), signed_by)


def apt_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Every enabled binary repository of the machine."""
    found: list[Source] = []
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            found += parse_one_line(text)
        elif path.suffix == ".sources":
            found += parse_deb822(text)
    return found


def debian_archive(sources: Sequence[Source]) -> str:
    """The URI of the Debian archive itself among the machine's sources, security and third parties aside."""

    def rank(source: Source) -> tuple[bool, bool, bool]:
        return (
            "debian-archive-keyring" not in source.signed_by,
            not source.uri.rstrip("/").endswith("/debian"),
            any("security" in suite for suite in source.suites),
        )

    candidates = [source for source in sources if "main" in source.components and "/" not in source.suites]
    plain = [source for source in candidates if any("-" not in s and "/" not in s for s in source.suites)]
    if not plain:
        raise TestbedError("no Debian archive among the machine's apt sources: nothing can be fetched")
    return min(plain, key=rank).uri


# -- fetching packages of another suite -----------------------------------------------------------------------


def run(argv: Sequence[str], *, cwd: Path | None = None, attempts: int = 1) -> str:
    """Run a command, again when it fails, and return what it printed; a last failure carries its last lines."""
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    for attempt in range(1, attempts + 1):
        done = subprocess.run(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout
        if attempt < attempts:
            say(f"{argv[0]} failed ({attempt} of {attempts}), trying again")
            threading.Event().wait(RETRY_DELAY * attempt)  # a mirror in trouble: give it a moment
    tail = "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
    raise TestbedError(f"{' '.join(argv[:1])} ... {argv[-1]} failed with {done.returncode}: {tail}")


def suite_apt(suite: str, state: Path, archive: str) -> list[str]:
    """The apt-get command line that sees one suite and nothing of the machine's own state."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {archive} {suite} main\n", encoding="utf-8")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "",
        "APT::Default-Release": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": ATTEMPTS,
    }
    return ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]


def fetch(suite: str, packages: Sequence[str], folder: Path) -> None:
    """Download packages of a suite, verified, and unpack them together into a folder that appears complete.

    Raises:
        TestbedError: The suite or a package can't be had.
    """
    if not KEYRING.is_file():
        raise TestbedError(f"{KEYRING} is missing: install debian-archive-keyring")
    archive = debian_archive(apt_sources())
    say(f"fetching {' '.join(packages)} of {suite}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as scratch:
        work = Path(scratch)
        apt = suite_apt(suite, work / "apt", archive)
        # "any": an index that could not be fetched fails the update instead of being a warning
        run([*apt, "--error-on=any", "update"], attempts=ATTEMPTS)
        run([*apt, "download", *packages], cwd=work, attempts=ATTEMPTS)
        unpacked = work / "unpacked"
        versions: dict[str, str] = {}
        for package in sorted(work.glob("*.deb")):
            run(["dpkg", "-x", str(package), str(unpacked)])
            name, version, _ = package.name.split("_", 2)
            versions[name] = version.replace("%3a", ":")
        (unpacked / "packages.json").write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")
        # the temporary directory is private to us; what is kept must be readable by all
        unpacked.chmod(0o755)
        unpacked.rename(folder)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One test bed at a time works on the cache."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# -- subcommands ----------------------------------------------------------------------------------------------


def missing_packages() -> list[str]:
    """Debian packages that the machine lacks."""
    by_dpkg = [name for name, command in SYSTEM_PACKAGES.items() if command is None]
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *by_dpkg]
    installed: list[str] = []
    with contextlib.suppress(FileNotFoundError):  # not Debian
        installed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    missing = [name for name in by_dpkg if f"{name} installed" not in installed]
    missing += [name for name, command in SYSTEM_PACKAGES.items() if command and not which(command)]
    with contextlib.suppress(ImportError):
        import ensurepip  # noqa: F401 - only its presence is asked: Debian splits it off

        return missing
    return [*missing, "python3-venv"]


def which(command: str, path: Sequence[str] = ()) -> str | None:
    """Find a command, in the folders of an administrator too."""
    search = [*path, *os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]
    return shutil.which(command, path=os.pathsep.join(search))


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    """Keep package scripts from starting services meanwhile, and put things back as they were."""
    kept = POLICY.with_name("policy-rc.d.kept-by-testbed")
    if POLICY.exists() and not kept.exists():
        POLICY.rename(kept)
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if kept.exists():
            kept.rename(POLICY)
        else:
            POLICY.unlink()


def do_system() -> None:
    """Install what is missing."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0:
        raise TestbedError(f"not root, so these can't be installed: {' '.join(missing)}")
    if not which("apt-get"):
        raise TestbedError(f"no apt-get here; install by hand: {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    with no_services():
        run(["apt-get", "-q", "update"], attempts=ATTEMPTS)
        run(["apt-get", "-q", "install", "-y", "--no-install-recommends", *missing], attempts=ATTEMPTS)


def own_containerd() -> tuple[str, str] | None:
    """Version and path of the machine's own containerd."""
    binary = which("containerd")
    if binary is None:
        return None
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return (words[2].removeprefix("v"), binary) if len(words) > 2 else None


def line_of(version: str) -> str:
    """``1.7.24~ds1-6`` -> ``1.7``."""
    return ".".join(version.split(".")[:2])


def listing() -> dict[str, dict[str, object]]:
    """Release line -> version, binaries, and the folders its PATH needs. The machine's own comes first."""
    found: dict[str, dict[str, object]] = {}
    own = own_containerd()
    if own is not None:
        version, binary = own
        found[line_of(version)] = {"version": version, "containerd": binary, "ctr": which("ctr"), "path": []}
    for suite in SUITES.values():
        folder = cache_dir() / suite / "containerd"
        packages = folder / "packages.json"
        if not packages.is_file():
            continue
        version = json.loads(packages.read_text(encoding="utf-8"))["containerd"]
        bin_dir = folder / "usr" / "bin"
        entry = {
            "containerd": str(bin_dir / "containerd"),
            "ctr": str(bin_dir / "ctr"),
            "path": [str(bin_dir)],
        }
        found.setdefault(line_of(version), {"version": version} | entry)
    return dict(sorted(found.items()))


def do_containerds() -> None:
    """Fetch the release lines that are missing; the machine's own serves for its line."""
    failures: list[str] = []
    own = own_containerd()
    for line, suite in SUITES.items():
        folder = cache_dir() / suite / "containerd"
        if folder.is_dir() or (own is not None and line_of(own[0]) == line):
            continue
        try:
            fetch(suite, ["containerd"], folder)
        except TestbedError as error:
            failures.append(f"containerd {line} is left out: {error}")
    for line, entry in listing().items():
        say(f"containerd {line}: {entry['version']} at {entry['containerd']}")
        if line not in SUITES:
            say(
                f"containerd {line} is not a line the tests expect ({', '.join(SUITES)}), it is tested as well"
            )
    if failures:
        raise TestbedError("\n".join(failures))


def criu_dir() -> Path | None:
    """The folder with the `criu` command, for a daemon's PATH; None before `do_criu`."""
    folder = cache_dir() / CRIU_SUITE / "criu" / "bin"
    return folder if (folder / "criu").is_file() else None


def do_criu() -> Path:
    """Fetch CRIU with its libraries, and write the command that runs it with them."""
    folder = cache_dir() / CRIU_SUITE / "criu"
    if not folder.is_dir():
        try:
            fetch(CRIU_SUITE, CRIU_PACKAGES, folder)
        except TestbedError as error:
            raise TestbedError(f"CRIU is left out, and the tests of checkpoints: {error}") from error
    command = folder / "bin" / "criu"
    if not command.is_file():
        loaders = sorted(folder.glob("usr/lib/*/ld-linux*.so.*"))
        if not loaders:
            raise TestbedError(f"CRIU is left out, and the tests of checkpoints: no loader in {folder}")
        libraries = f"${{0%/*}}/../{loaders[0].parent.relative_to(folder)}"
        command.parent.mkdir(exist_ok=True)
        half = command.with_name("criu.new")
        half.write_text(
            "#!/bin/sh\n"
            f'exec "{libraries}/{loaders[0].name}" --library-path "{libraries}" "${{0%/*}}/../usr/sbin/criu" "$@"\n',
            encoding="utf-8",
        )
        half.chmod(0o755)
        half.rename(command)
    return command.parent


def do_reference_protos() -> Path:
    """Fetch Debian's .proto files of containerd and cgroups."""
    folder = cache_dir() / REFERENCE_SUITE / "reference-protos"
    if not folder.is_dir():
        try:
            fetch(REFERENCE_SUITE, REFERENCE_PACKAGES, folder)
        except TestbedError as error:
            raise TestbedError(f"reference .proto files are left out: {error}") from error
    return folder / REFERENCE_INCLUDE


def obstacles() -> list[str]:
    """Why containers can't be run here; empty when they can."""
    if sys.platform != "linux":
        return ["not Linux"]
    if os.geteuid() != 0:
        return ["not root"]
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="containerd-aio-probe-") as scratch:
        # a file system of its own: overlayfs refuses some others as upper layer (overlay on overlay)
        if libc.mount(b"tmpfs", scratch.encode(), b"tmpfs", 0, b"size=1m") != 0:
            return [f"mounting is not allowed ({os.strerror(ctypes.get_errno())})"]
        try:
            for name in ("lower", "upper", "work", "merged"):
                Path(scratch, name).mkdir()
            options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work".encode()
            merged = f"{scratch}/merged".encode()
            if libc.mount(b"overlay", merged, b"overlay", 0, options) != 0:
                return [f"no overlayfs ({os.strerror(ctypes.get_errno())})"]
            libc.umount2(merged, 2)
        finally:
            libc.umount2(scratch.encode(), 2)
    return []


def do_all() -> None:
    """Everything, each as far as this machine allows."""
    failures: list[str] = []
    steps: tuple[Callable[[], object], ...] = (do_system, do_containerds, do_criu, do_reference_protos)
    for step in steps:
        try:
            step()
        except TestbedError as error:
            failures += str(error).splitlines()
    failures += [f"integration tests are left out: {reason}" for reason in obstacles()]
    if failures:
        raise TestbedError("\n".join(failures))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whichever python3 the machine has runs this file
        print("testbed: Python 3.11 or newer is needed: make PYTHON=python3.11 ...", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(description="Find or fetch what the tests need.")
    parser.add_argument(
        "command", choices=["system", "containerds", "criu", "reference-protos", "all", "list"]
    )
    command = parser.parse_args(argv).command
    if command == "list":
        print(json.dumps(listing(), indent=1))
        return 0
    try:
        with locked():
            if command == "system":
                do_system()
            elif command == "containerds":
                do_containerds()
            elif command == "criu":
                print(do_criu())
            elif command == "reference-protos":
                print(do_reference_protos())
            else:
                do_all()
    except TestbedError as error:
        for line in str(error).splitlines():
            say(line)
        # `all` is best effort for a person, a failure for CI; a part asked for by name has to be there
        return 1 if in_ci() or command != "all" else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
