"""Keep containers running by restart policy, on a containerd of our own, through kill -9 of either.

python examples/container_service.py /var/lib/service containers.json --containerd /usr/bin/containerd

containers.json names each container with its command, root file system and policy:

    {"web": {"args": ["sh", "-c", "date; sleep 10; exit 1"], "rootfs": "/srv/busybox", "restart": "on-failure:3"}}

What happens to the containers is appended to DIR/journal.jsonl. This program and containerd may be killed at any time: the
containers go on, the next start finds them again, and what happened meanwhile is told. SIGTERM ends the program only.
"""

import argparse
import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from containerd_aio import ContainerdError, oci
from containerd_aio.libcontainerd import (
    STATE_EXIT,
    STATE_RESTORE,
    STATE_START,
    Client,
    Remote,
    RestartManager,
    RestartWait,
    StateInfo,
    with_daemon_options,
    with_live_restore,
    with_start_daemon,
)


class Service:
    """The backend: writes down what it is told, and has what ended started again if its policy says so."""

    def __init__(self, folder: Path, namespace: str, containers: dict[str, Any], tasks: TaskGroup) -> None:
        self.client: Client
        self.namespace = namespace
        self.tasks = tasks
        self.containers = containers
        self.journal = folder / "journal.jsonl"
        # A file for each container: is it "begun", "waiting" to be started again, "done"; and how often it was again.
        self.folder = folder / "containers"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.managers: dict[str, RestartManager] = {}
        self.began: dict[str, float] = {}

    async def state_changed(self, name: str, state: StateInfo) -> None:
        entry = {"container": name, "state": state.state, "code": state.exit_code, "unknown": state.unknown}
        with self.journal.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")
        now = anyio.current_time()
        if state.state in {STATE_START, STATE_RESTORE}:
            self.began[name] = now
        elif state.state == STATE_EXIT:
            ran = now - self.began.get(name, now)
            wait = self.managers[name].should_restart(state.exit_code, run_duration=ran)
            self.note(name, "done" if wait is None else "waiting")
            if wait is not None:
                self.tasks.start_soon(self.start_again, name, wait)

    def note(self, name: str, what: str) -> None:
        new = self.folder / f".{name}.new"
        new.write_text(f"{what} {self.managers[name].restart_count}")
        new.replace(self.folder / name)  # in one step: a kill leaves the old one or the new one

    async def start_again(self, name: str, wait: RestartWait) -> None:
        await wait.wait()
        await self.start(name)

    async def start(self, name: str) -> None:
        config = self.containers[name]
        spec = await oci.generate_spec(
            oci.SpecContext(container_id=name, namespace=self.namespace),
            oci.with_rootfs_path(config["rootfs"]),
            oci.with_env(["PATH=/bin"]),
            oci.with_process_args(*config["args"]),
        )
        self.note(name, "begun")
        while True:
            try:
                return await self.client.create(name, spec)
            except ContainerdError as error:  # containerd may be away just now
                print(f"{name} was not started: {error}", flush=True)
                await anyio.sleep(0.5)

    async def find_or_start(self, name: str) -> None:
        file = self.folder / name
        what, count = file.read_text().split() if file.exists() else ("new", "0")
        policy = self.containers[name].get("restart", "no")
        self.managers[name] = RestartManager(policy, restart_count=int(count))
        if what == "begun":
            await self.client.restore(name)
        elif what != "done":
            self.tasks.start_soon(self.start, name)


async def main(folder: Path, containers: dict[str, Any], containerd: str | None, namespace: str) -> None:
    options = (
        with_start_daemon(),
        with_live_restore(True),
        with_daemon_options(binary=containerd, log_level="warn"),
    )
    async with Remote(folder / "libcontainerd", *options, namespace=namespace) as remote:
        async with anyio.create_task_group() as tasks:
            service = Service(folder, namespace, containers, tasks)
            service.client = await remote.client(service)
            for name in containers:
                await service.find_or_start(name)
            print("ready", flush=True)
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep containers running by restart policy.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("containers", type=Path)
    parser.add_argument("--containerd", help="the executable; by default the one on PATH")
    parser.add_argument("--namespace", default="container-service", help="containerd's namespace for them")
    arguments = parser.parse_args()
    configured = json.loads(arguments.containers.read_text())
    asyncio.run(main(arguments.folder, configured, arguments.containerd, arguments.namespace))
