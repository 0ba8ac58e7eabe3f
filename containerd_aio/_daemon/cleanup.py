"""Clear up after a daemon: end it and its shims, unmount, delete.

The same code runs in two places: in a worker thread when a `Daemon` is left, and in the guardian, a small process of
its own that does it when ours was killed. The guardian runs this file as a script with ``python -I -S``: standard
library only, and nothing here may import from the package.

Processes are recognised by what the kernel says of them (command line, working directory) and held by pidfd before
they are signalled, so a recycled pid is never hit.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

TYPE_CHECKING = False  # typing itself is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MNT_DETACH = 2
_KILL_TIMEOUT = 5.0
_SHIM_DELETE_TIMEOUT = 10.0
# Where the runc shim keeps runc's own state, whatever the daemon's state directory is.
_RUNC_STATE = Path("/run/containerd/runc")
#: What is sent to whole groups of processes: the guardian outlives it, to see what becomes of its parent.
GUARDIAN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_CGROUPS = Path("/sys/fs/cgroup")
#: How the directories of `mounts.temporary_mount` begin.
TEMPORARY = "containerd-aio-"
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one daemon keeps its things.

    Attributes:
        root: Persistent data.
        state: Everything that ends with the daemon's containers: bundles, sockets, pid file.
        address: Socket of the gRPC API; the ttrpc one is the same with ``.ttrpc``.
        config: Configuration file; it is on the daemon's command line, which is how the daemon is recognised.
        binary: The containerd executable.
        path: ``PATH`` of the daemon.
        created: Directories that did not exist before, deleted when all is over.
        stop_timeout: Seconds between SIGTERM and SIGKILL.
    """

    root: str
    state: str
    address: str
    config: str
    binary: str
    path: str
    created: tuple[str, ...] = ()
    stop_timeout: float = 15.0

    @property
    def lock(self) -> str:
        """The file that is locked by whoever keeps this daemon; beside the state, as it outlives it."""
        return f"{self.state}.lock"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"created": tuple(fields["created"])})


def recorded(layout: Layout) -> Layout:
    """Return the layout that the daemon of the same state was started with, as far as it is known."""
    try:
        return Layout.from_json(Path(f"{layout.state}/layout.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return layout


# -- processes ------------------------------------------------------------------------------------------------


class Handle:
    """A process held by pidfd: the pid can't come to mean another one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def send(self, signum: int) -> None:
        """Send a signal; a process that has ended is fine."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, signum)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


def command_line(pid: int) -> list[str]:
    """The argument vector; empty when the process is gone, a zombie or a kernel thread."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="surrogateescape").rstrip("\0").split("\0") if raw else []


def is_daemon(argv: list[str], config: str) -> bool:
    """Whether a command line is that of the daemon started with this configuration file."""
    return _has_option(argv, "--config", config) and "containerd" in " ".join(argv[:2])


def is_shim(argv: list[str], cwd: str, layout: Layout) -> bool:
    """Whether a process is a shim of this daemon, whichever runtime it belongs to.

    containerd starts every shim with its own address on the command line and in the bundle as working directory.
    """
    if _has_option(argv, "-address", layout.address):
        return "-id" in argv or "-namespace" in argv
    name = argv[0].rpartition("/")[2] if argv else ""
    return name.startswith("containerd-shim") and _is_below(cwd, layout.state)


def _has_option(argv: list[str], option: str, value: str) -> bool:
    return any(argv[i] == option and argv[i + 1] == value for i in range(len(argv) - 1))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208


def _cwd(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115 - may end in " (deleted)", which is no path
    except OSError:
        return ""


def _find(matches: Callable[[int], bool]) -> list[Handle]:
    found: list[Handle] = []
    for pid in _pids():
        if pid == os.getpid() or not matches(pid):
            continue
        with contextlib.suppress(ProcessLookupError):
            handle = Handle(pid)
            # Asked again: only now is it certain that the process held is the process seen.
            if matches(pid):
                found.append(handle)
            else:
                handle.close()
    return found


def find_daemon(layout: Layout) -> list[Handle]:
    """The running daemon of this layout, if any."""
    return _find(lambda pid: is_daemon(command_line(pid), layout.config))


def find_shims(layout: Layout) -> list[Handle]:
    """The running shims of this layout."""
    return _find(lambda pid: is_shim(command_line(pid), _cwd(pid), layout))


def has_shims(layout: Layout) -> bool:
    """Whether shims of this layout run."""
    shims = find_shims(layout)
    for shim in shims:
        shim.close()
    return bool(shims)


def _descendants(roots: Iterable[int]) -> list[Handle]:
    """Every process below the given ones. Shims are subreapers: all their containers' processes are among these."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(pid)
    handles: list[Handle] = []
    queue = list(roots)
    while queue:
        for pid in children.get(queue.pop(), ()):
            queue.append(pid)
            with contextlib.suppress(ProcessLookupError):
                handles.append(Handle(pid))
    return handles


def _wait_all(handles: Iterable[Handle], timeout: float) -> list[Handle]:
    """Wait until processes have ended and return those that have not."""
    remaining = {handle.fd: handle for handle in handles}
    poll = select.poll()
    for fd in remaining:
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout
    while remaining:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            break
        for fd, _ in ready:
            poll.unregister(fd)
            del remaining[fd]
    return list(remaining.values())


# -- the steps ------------------------------------------------------------------------------------------------


def end_daemon(layout: Layout) -> None:
    """Stop the daemon: SIGTERM, and SIGKILL after the layout's time."""
    handles = find_daemon(layout)
    for handle in handles:
        handle.send(signal.SIGTERM)
        handle.send(signal.SIGCONT)  # a stopped one would never see the other signal
    for handle in _wait_all(handles, layout.stop_timeout):
        handle.send(signal.SIGKILL)
    _wait_all(handles, _KILL_TIMEOUT)
    for handle in handles:
        handle.close()


def _listening_sockets(pid: int) -> set[str]:
    """Paths of the unix sockets a process listens on."""
    inodes: set[str] = set()
    paths: set[str] = set()
    with contextlib.suppress(OSError):
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(fd.path).removeprefix("socket:[").rstrip("]"))  # noqa: PTH115
        for line in Path(f"/proc/{pid}/net/unix").read_text(errors="surrogateescape").splitlines():
            parts = line.split(None, 7)
            if len(parts) == 8 and parts[6] in inodes and parts[7].startswith("/"):
                paths.add(parts[7])
    return paths


def _end_shims(layout: Layout, leftovers: list[Handle]) -> tuple[set[str], dict[str, str]]:
    """Kill shims and all that is below them; return their sockets and the executable each container's shim had."""
    sockets: set[str] = set()
    executables: dict[str, str] = {}
    for _ in range(10):  # a shim about to be started when the daemon died may turn up late
        shims = find_shims(layout)
        if not shims:
            break
        for shim in shims:
            sockets |= _listening_sockets(shim.pid)
            argv = command_line(shim.pid)
            with contextlib.suppress(OSError, ValueError, IndexError):
                executables[argv[argv.index("-id") + 1]] = os.readlink(f"/proc/{shim.pid}/exe")  # noqa: PTH115
        below = _descendants(shim.pid for shim in shims)
        for handle in (*shims, *below):
            handle.send(signal.SIGKILL)
        _wait_all(shims, _KILL_TIMEOUT)
        for shim in shims:
            shim.close()
        leftovers += below
    return sockets, executables


def _bundles(layout: Layout) -> list[Path]:
    """Directories of the containers that have, or had, a shim."""
    return [path for path in Path(layout.state).glob("io.containerd.runtime.*/*/*") if path.is_dir()]


def _namespaces(layout: Layout) -> set[str]:
    """Names of the namespaces in which containers have run: their directories outlive the last bundle in them."""
    return {path.name for path in Path(layout.state).glob("io.containerd.runtime.*/*") if path.is_dir()}


def _delete_bundle(layout: Layout, bundle: Path, executables: dict[str, str]) -> str | None:
    """Let the shim's own ``delete`` command undo a container, as containerd does for a shim that died."""
    shim = ""
    with contextlib.suppress(OSError):
        shim = (bundle / "shim-binary-path").read_text().strip()
    shim = shim or executables.get(bundle.name, "")
    shim = shim or shutil.which("containerd-shim-runc-v2", path=layout.path) or ""
    if not shim:
        return f"no shim to delete {bundle} with"
    common = ["-namespace", bundle.parent.name, "-address", layout.address]
    argv = [
        shim,
        *common,
        "-publish-binary",
        layout.binary,
        "-id",
        bundle.name,
        "-bundle",
        str(bundle),
        "delete",
    ]
    env = os.environ | {"PATH": layout.path, "TTRPC_ADDRESS": f"{layout.address}.ttrpc"}
    null = subprocess.DEVNULL
    try:
        subprocess.run(
            argv, cwd=bundle, env=env, stdin=null, stdout=null, stderr=null,
            timeout=_SHIM_DELETE_TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"deleting {bundle}: {error}"
    return None


def _shim_sockets(bundle: Path) -> Iterator[str]:
    """Socket addresses noted in a bundle: they live outside the state directory and outlive a killed shim."""
    with contextlib.suppress(OSError):
        yield (bundle / "address").read_text().strip().removeprefix("unix://")
    with contextlib.suppress(OSError, ValueError, KeyError):
        yield json.loads((bundle / "bootstrap.json").read_text())["address"].removeprefix("unix://")


def _remove_empty(namespaces: Iterable[str]) -> None:
    """Remove what the runtime makes per namespace and never takes away, where nobody else is in it."""
    for namespace in namespaces:
        with contextlib.suppress(OSError):
            (_RUNC_STATE / namespace).rmdir()
        for hierarchy in (_CGROUPS, *_CGROUPS.glob("*/")):
            # The cgroups of containers that containerd has forgotten are empty, and still there.
            for folder, _, _ in os.walk(hierarchy / namespace, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)  # noqa: PTH106


def _mounted() -> list[tuple[str, str, str, str]]:
    """What is mounted, the last first: where; of which device; its directory there; the options of its file system."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    plain = [[_OCTAL.sub(lambda m: chr(int(m[1], 8)), each) for each in line.split(" ")] for line in lines]
    return [(fields[4], fields[2], fields[3], fields[-1]) for fields in reversed(plain)]


def mounts_below(*folders: str) -> list[str]:
    """Mount points in these folders, the last mounted first."""
    return [point for point, *_ in _mounted() if any(_is_below(point, folder) for folder in folders)]


def temporary_mounts(root: str) -> list[str]:
    """Where `mounts.temporary_mount` shows snapshots that lie below a daemon's root, the last mounted first."""
    mounted = _mounted()
    point, own_device, source, _ = max(
        (each for each in mounted if _is_below(root, each[0])), key=lambda each: len(each[0])
    )
    own_source = os.path.normpath(os.path.join(source, os.path.relpath(root, point)))  # noqa: PTH118
    return [
        point
        for point, device, source, options in mounted
        if point.rpartition("/")[2].startswith(TEMPORARY)
        and not (_is_below(root, point) or _is_below(point, root))
        and (
            (device == own_device and _is_below(source, own_source))
            or any(_is_below(part, root) for part in re.split("[=:,]", options))
        )
    ]


def _unmount(points: Iterable[str]) -> None:
    libc = ctypes.CDLL(None)
    for point in points:
        libc.umount2(os.fsencode(point), _MNT_DETACH)


def is_listened_on(path: str) -> bool:
    """Whether somebody listens on a unix socket; one that is frozen does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:
            return True  # more wait for it than it has taken
        except OSError:
            return False
    return True


def _unlink_socket(path: str) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode) and not is_listened_on(path):
            Path(path).unlink()


def remove_traces(layout: Layout) -> None:
    """Remove what a daemon that was killed leaves behind: its pid file, and sockets that nobody else has taken over."""
    for path in (layout.address, f"{layout.address}.ttrpc"):
        _unlink_socket(path)
    with contextlib.suppress(OSError):
        Path(layout.state, "containerd.pid").unlink()


def remove_created(layout: Layout) -> Iterator[str]:
    """Delete the directories that were created for the daemon, and its lock; yields what could not be done."""
    if layout.state in layout.created:
        _remove_empty(_namespaces(layout))  # nobody will know of them any more
    for folder in {layout.root, layout.state}.intersection(layout.created):
        if mounts_below(folder):
            yield f"{folder} is kept: something is still mounted in it"
            continue
        shutil.rmtree(folder, ignore_errors=True)
        if Path(folder).exists():
            yield f"{folder} could not be deleted"
    # From here on a successor may come, so from here on nothing that it could use is touched.
    with contextlib.suppress(OSError):
        Path(layout.lock).unlink()
    for folder in sorted(layout.created, key=len, reverse=True):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()  # parents, unless somebody else has moved in


def clean(layout: Layout) -> list[str]:
    """End the daemon and everything it started, unmount, delete what was created for it.

    Safe to repeat, and on a layout of which nothing is left.

    Returns:
        What could not be done, as sentences; empty is the rule.
    """
    problems: list[str] = []
    containers: list[Handle] = []
    end_daemon(layout)
    sockets, executables = _end_shims(layout, containers)
    for bundle in _bundles(layout):
        sockets.update(_shim_sockets(bundle))
        problem = _delete_bundle(layout, bundle, executables)
        if problem:
            problems.append(problem)
    problems += [f"process {h.pid} of a container does not end" for h in _wait_all(containers, _KILL_TIMEOUT)]
    for handle in containers:
        handle.close()
    temporary = temporary_mounts(layout.root)  # of programs that were killed: what they show is no more
    _unmount([*temporary, *mounts_below(layout.state, layout.root)])
    for folder in temporary:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    for path in sockets:
        _unlink_socket(path)
    remove_traces(layout)
    for name in ("config.toml", "layout.json"):
        with contextlib.suppress(OSError):
            Path(layout.state, name).unlink()
    _remove_empty(_namespaces(layout))
    problems += remove_created(layout)
    return problems


# -- the guardian ---------------------------------------------------------------------------------------------


def guard(parent: int) -> None:
    """Wait until the parent has died or says that it is done; in the first case, clear up.

    Standard input carries lines: a layout as JSON (the last one counts), or ``done``. Both the end of input and the
    parent's pidfd are watched: a forked child of the parent may hold the pipe open after its death.
    """
    for signum in GUARDIAN_SIGNALS:
        signal.signal(signum, lambda *_: None)  # not SIG_IGN: that would be inherited by what it runs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GUARDIAN_SIGNALS)
    layout: Layout | None = None
    poll = select.poll()
    poll.register(0, select.POLLIN)
    with contextlib.suppress(ProcessLookupError):
        poll.register(os.pidfd_open(parent), select.POLLIN)
    pending = b""
    alive = os.getppid() == parent
    while alive or select.select([0], [], [], 0)[0]:
        ready = [fd for fd, _ in poll.poll()] if alive else [0]
        if 0 not in ready:
            alive = False
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            if line == b"done":
                return
            layout = Layout.from_json(line.decode())
    if layout is not None:
        clean(layout)


if __name__ == "__main__":
    guard(int(sys.argv[1]))
