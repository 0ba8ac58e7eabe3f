"""A look at a daemon from outside: its processes as the kernel sees them, its API through containerd's own client."""

import os
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from containerd_aio._daemon import cleanup
from tests.conftest import RUN

#: Of this test run alone: runc's state is shared by all daemons of a machine.
NAMESPACE = RUN


@dataclass
class Ctr:
    """containerd's own command line client, as somebody else's view of a daemon."""

    binary: str
    rootfs: str

    async def __call__(self, daemon, *args):
        argv = [self.binary, "--address", daemon.address, "--namespace", NAMESPACE, *args]
        with anyio.fail_after(20):
            done = await anyio.run_process(argv, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def run_args(self, name, script="sleep 1000"):
        shell = ("/bin/busybox", "sh", "-c", script)
        return ("run", "--detach", "--rootfs", "--null-io", self.rootfs, name, *shell)

    async def run(self, daemon, name, script="sleep 1000"):
        await self(daemon, *self.run_args(name, script))


def processes_of(daemon):
    """The daemon, its shims, and all processes of its containers."""
    daemons, shims = cleanup.find_daemon(daemon._layout), cleanup.find_shims(daemon._layout)
    return [*daemons, *shims, *cleanup._descendants(handle.pid for handle in shims)]


async def ended(handles, timeout=20):
    """Wait until processes have ended, and let go of them."""
    remaining = await anyio.to_thread.run_sync(cleanup._wait_all, handles, timeout)
    assert not remaining, [cleanup.command_line(handle.pid) for handle in remaining]
    for handle in handles:
        handle.close()


def assert_nothing_left(daemon):
    assert [handle.pid for handle in processes_of(daemon)] == []
    assert cleanup.mounts_below(daemon.root, daemon.state) == []
    assert not Path(daemon.root).exists()
    assert not Path(daemon.state).exists()


def zombies():
    """Children of ours that have ended and were not reaped."""
    found = []
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in path.read_text().split():
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                found.append(int(pid))
    return found
