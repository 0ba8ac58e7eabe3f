"""Sandboxes on real daemons: 1.6 has none, 1.7 leaves them to the shim, 2.1 has those of the CRI plugin."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client, Daemon, Sandbox, typeurl
from containerd_aio.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented, Unknown
from containerd_aio.services.introspection import Introspection
from containerd_aio.services.sandboxes import (
    POD_SANDBOXER,
    SandboxController,
    SandboxStatus,
    SandboxStore,
)

RUNTIME = "io.containerd.runc.v2"
PAUSE = "docker.io/library/pause:test"
EMPTY_SPEC = typeurl.pack({}, typeurl.SPEC)


@pytest.fixture
async def plain(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as client:
        yield client


@pytest.fixture
def sandbox_id() -> str:
    return f"sandbox-{secrets.token_hex(4)}"


async def test_records(plain: Client, sandbox_id: str, containerd_version: str) -> None:
    store = SandboxStore(plain.services)
    if containerd_version == "1.6":
        for call in (plain.sandboxes, plain.sandbox, plain.new_sandbox):
            with pytest.raises(Unimplemented, match=r"no service .*Store: it came with containerd 1\.7"):
                await call("x")
        return
    made = await store.create(
        sandbox_id,
        runtime=RUNTIME,
        spec=EMPTY_SPEC,
        labels={"a": "b", "c": "d"},
        extensions={"one": typeurl.pack({"n": 1}, "types.test/One")},
    )
    assert (made.id, made.runtime, made.labels) == (sandbox_id, RUNTIME, {"a": "b", "c": "d"})
    assert made.sandboxer == ("" if containerd_version == "1.7" else "shim")
    assert made.created_at is not None
    with pytest.raises(AlreadyExists):
        await store.create(sandbox_id, runtime=RUNTIME)
    assert [info.id for info in await plain.sandboxes("labels.a==b")] == [sandbox_id]
    assert [info.id for info in await plain.sandboxes(f"id=={sandbox_id}")] == [sandbox_id]
    assert await plain.sandboxes("labels.a==x") == []
    assert (await store.update_labels(sandbox_id, {"a": None, "e": "f"})).labels == {"c": "d", "e": "f"}
    assert (await store.update_labels(sandbox_id, {})).labels == {"c": "d", "e": "f"}
    changed = await store.update_extensions(sandbox_id, {"two": typeurl.pack({"n": 2}, "types.test/Two")})
    assert changed.extensions.keys() == {"one", "two"}
    assert changed.extensions["one"].value == b'{"n":1}'
    sandbox = await plain.sandbox(sandbox_id)
    assert (sandbox.id, await sandbox.labels()) == (sandbox_id, {"c": "d", "e": "f"})
    assert await sandbox.update_labels({"c": None}) == {"e": "f"}
    await store.delete(sandbox_id)
    for gone in (store.get, store.delete, plain.sandbox):
        with pytest.raises(NotFound):
            await gone(sandbox_id)
    with pytest.raises(InvalidArgument):
        await store.create("no/name", runtime=RUNTIME)
    with pytest.raises(InvalidArgument):
        await store.create("ok", runtime="")


async def test_sandboxes_of_the_shim(plain: Client, sandbox_id: str, containerd_version: str) -> None:
    """1.7 answers each step with an error about its event although the step was done; 2.1's shim of runc has none."""
    if containerd_version == "1.6":
        with pytest.raises(Unimplemented):
            await SandboxController(plain.services).start(sandbox_id)
        return
    if containerd_version == "2.1":
        # Without the CRI plugins the daemon serves no controller at all, and the record made before it is gone again.
        with pytest.raises(Unimplemented, match=r"Controller: it came with containerd 1\.7; on a newer one"):
            await plain.new_sandbox(sandbox_id)
        assert await plain.sandboxes() == []
        return
    async with await plain.new_sandbox(sandbox_id, labels={"a": "b"}) as sandbox:
        await sandbox.start()
        with pytest.raises(Unimplemented):
            await sandbox.controller.platform(sandbox_id)
        ended = await sandbox.wait()
        assert (ended.code, ended.unknown) == (255, True)
        with pytest.raises(AlreadyExists):
            await plain.new_sandbox(sandbox_id)
        with pytest.raises(Unimplemented, match=r"2\.0"):
            await sandbox.controller.metrics(sandbox_id)
    with pytest.raises(NotFound):
        await plain.sandbox(sandbox_id)
    await _shim_ends(sandbox_id)


async def _shim_ends(sandbox_id: str) -> None:
    """Return when no shim of a sandbox runs any more, nor what containerd calls to clean up after it."""
    with anyio.fail_after(10):
        while sandbox_id in await _shims():
            pass


async def _shims() -> str:
    done = await anyio.run_process(["ps", "-ewwo", "args"])
    return "\n".join(line for line in done.stdout.decode().splitlines() if "containerd-shim" in line)


def pod_metadata(sandbox_id: str) -> Any:
    """What the CRI plugin keeps with a record: a pod in the network of the host."""
    config = {
        "metadata": {"name": sandbox_id, "uid": "u", "namespace": "d"},
        "linux": {"security_context": {"namespace_options": {"network": 2}}},
    }
    metadata = {"ID": sandbox_id, "Name": sandbox_id, "Config": config}
    return typeurl.pack(
        {"Version": "v1", "Metadata": metadata}, "github.com/containerd/cri/pkg/store/sandbox/Metadata"
    )


async def test_pods(
    private_daemon: Callable[..., Daemon], containerd_version: str, sandbox_id: str, tmp_path: Path
) -> None:
    """With the CRI plugin: 1.6 keeps its pods to itself, 1.7 has its shim for any controller, 2.1 makes pods."""
    from containerd_aio.testing.images import busybox_image

    image = busybox_image(tmp_path / "pause.tar", PAUSE, config={"Cmd": ["sleep", "1000"]})
    cri = {"sandbox_image": PAUSE, "restrict_oom_score_adj": True}
    config = {"plugins": {"io.containerd.grpc.v1.cri": cri}}
    async with (
        private_daemon(cri=True, config=config) as daemon,
        Client(daemon.address, namespace="k8s.io") as client,
    ):
        await client.import_archive(image, unpack=True)
        if containerd_version == "1.6":
            with pytest.raises(Unimplemented, match=r"it came with containerd 1\.7"):
                await client.new_sandbox(sandbox_id, sandboxer=POD_SANDBOXER)
            await _has_a_container(client, sandbox_id, recorded="")
            return
        if containerd_version == "2.1":
            with pytest.raises(NotFound, match="no-such-controller"):
                await client.new_sandbox(sandbox_id, sandboxer="no-such-controller")
            with pytest.raises(Unimplemented, match="Sandbox"):  # the shim of runc has no sandboxes
                await client.new_sandbox(sandbox_id)
        for n in range(8):
            with anyio.move_on_after(0.004 * n):
                async with await _new_pod(client, f"{sandbox_id}-{n}"):
                    await anyio.sleep_forever()
        assert await client.sandboxes() == []
        async with await _new_pod(client, sandbox_id) as sandbox:
            status = await sandbox.start()
            if containerd_version == "2.1":
                await _is_a_pod(sandbox, status)
            else:
                assert (status.state, status.pid, sandbox.metadata.sandboxer) == ("", None, "")
                assert sandbox_id in await _shims()
            await _has_a_container(client, sandbox_id, recorded=sandbox_id)
            ends: list[int] = []

            async def wait() -> None:
                ends.append((await sandbox.wait()).code)

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await sandbox.stop(timeout=1)
            if containerd_version == "2.1":
                assert ends in ([137], [143])
                assert (await sandbox.status()).state == "SANDBOX_NOTREADY"
            else:
                assert ends == [255]
        with pytest.raises(NotFound):
            await client.sandbox(sandbox_id)
        if containerd_version == "2.1":
            with pytest.raises(NotFound):
                await SandboxController(client.services, POD_SANDBOXER).status(sandbox_id)
        await _shim_ends(sandbox_id)


async def _new_pod(client: Client, sandbox_id: str) -> Sandbox:
    return await client.new_sandbox(
        sandbox_id, sandboxer=POD_SANDBOXER, extensions={"metadata": pod_metadata(sandbox_id)}
    )


async def _has_a_container(client: Client, sandbox_id: str, *, recorded: str) -> None:
    inside = await client.new_container("inside", image=PAUSE, args=["true"], sandbox=sandbox_id)
    assert (await inside.info()).sandbox == recorded
    await inside.delete()


async def _is_a_pod(sandbox: Sandbox, status: SandboxStatus) -> None:
    assert status.state == "SANDBOX_READY"
    assert status.pid is not None
    assert status.created_at is not None
    assert status.exited_at is None
    assert Path(f"/proc/{status.pid}").exists()
    assert (await sandbox.status(verbose=True)).info


# -- what the daemon says about itself -----------------------------------------------------------------------------


@pytest.mark.shows("go:TestRuntimeInfo")
async def test_what_a_runtime_is(plain: Client, containerd_version: str) -> None:
    if containerd_version != "2.1":
        with pytest.raises(Unimplemented):
            await plain.introspection.runtime_info()
        return
    info = await plain.introspection.runtime_info()
    assert info.name == RUNTIME
    assert info.version
    assert info.features is not None
    assert "ociVersionMax" in info.features
    with pytest.raises((NotFound, Unknown, InvalidArgument)):
        await plain.introspection.runtime_info("no.such.runtime")


async def test_a_plugin_and_what_it_tells(plain: Client, containerd_version: str) -> None:
    introspection = Introspection(plain.services)
    assert await introspection.snapshotter_capabilities("native") == ()
    assert {p.os for p in await introspection.snapshotter_platforms("overlayfs")} == {"linux"}
    with pytest.raises(NotFound, match="no-such"):
        await introspection.snapshotter_capabilities("no-such")
    if containerd_version == "2.1":
        found = await introspection.plugin_info("io.containerd.snapshotter.v1", "overlayfs")
        assert found.plugin.id == "overlayfs"
        with pytest.raises(NotFound):
            await introspection.plugin_info("io.containerd.snapshotter.v1", "no-such")
    else:
        with pytest.raises(Unimplemented):
            await introspection.plugin_info("io.containerd.snapshotter.v1", "overlayfs")
