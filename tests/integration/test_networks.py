"""Networks of containers on every release line: none, the host's, one to join, and real CNI plugins."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import AlreadyExists, Client, InvalidArgument, NotFound, RunTimeout, cni
from containerd_aio.cni import Network, PortMapping
from tests.integration.conftest import BUSYBOX


def _sh(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def bridged(tmp_path: Path) -> Iterator[Network]:
    """A bridge network with port mapping, of this test alone."""
    token = secrets.token_hex(3)
    third = secrets.randbelow(250) + 1
    conf: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": f"caio-{token}",
        "plugins": [
            {
                "type": "bridge",
                "bridge": f"caio{token}",
                "isGateway": True,
                "ipMasq": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(tmp_path / "ipam"),
                    "ranges": [[{"subnet": f"10.213.{third}.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    folder = tmp_path / "net.d"
    folder.mkdir()
    (folder / "10-caio.conflist").write_text(json.dumps(conf))
    yield Network.load(f"caio-{token}", conf_dir=folder, cache_dir=tmp_path / "cni")
    assert list((tmp_path / "cni" / "results").glob("*")) == []
    leases = [path.name for path in (tmp_path / "ipam").rglob("10.*")]
    assert leases == []
    with suppress(subprocess.CalledProcessError):
        _sh("ip", "link", "delete", f"caio{token}")
    assert f"caio-{token}" not in _sh("iptables-save", "-t", "nat")


async def _interfaces(client: Client, network: str | Network) -> set[str]:
    result = await client.run(BUSYBOX, ["ls", "/sys/class/net"], network=network, check=True)
    return set(result.stdout.decode().split())


async def test_none_the_hosts_and_one_to_join(client: Client) -> None:
    assert await _interfaces(client, "none") == {"lo"}
    assert await _interfaces(client, "host") == {name for _, name in socket.if_nameindex()}
    name = f"caio-{secrets.token_hex(3)}"
    _sh("ip", "netns", "add", name)
    try:
        _sh("ip", "-n", name, "link", "add", "own0", "type", "veth", "peer", "own1")
        assert await _interfaces(client, f"/run/netns/{name}") == {"lo", "own0", "own1"}
    finally:
        _sh("ip", "netns", "delete", name)


async def test_two_containers_and_the_host_reach_each_other(client: Client, bridged: Network) -> None:
    """Bridge and portmap: the second container by address, the host through a port of its own."""
    serve = "mkdir /srv && echo served > /srv/page && exec httpd -f -p 80 -h /srv"
    async with await client.new_container("server", image=BUSYBOX, args=["sh", "-c", serve]) as server:
        async with await server.new_task() as task:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            mapping = PortMapping(host_port=port, container_port=80)
            async with bridged.attach("server", f"/proc/{task.pid}/ns/net", port_mappings=[mapping]) as made:
                await task.start()
                fetch = f"until wget -q -O - http://{made.addresses[0].ip}/page; do :; done"
                answer = await client.run(
                    BUSYBOX, ["sh", "-c", fetch], network=bridged, timeout=20, check=True
                )
                assert answer.stdout == b"served\n"
                async with await anyio.connect_tcp(str(made.gateways[0]), port) as stream:
                    await stream.send(b"GET /page HTTP/1.0\r\n\r\n")
                    page = b""
                    with suppress(anyio.EndOfStream):
                        while True:
                            page += await stream.receive()
                assert page.endswith(b"served\n")


async def test_del_is_always_run(client: Client, bridged: Network) -> None:
    """After a timeout, a cancellation, and a command that can't be started: the fixture looks for what is left."""
    with pytest.raises(RunTimeout):
        await client.run(BUSYBOX, ["sleep", "1000"], network=bridged, timeout=0.5)
    with anyio.move_on_after(0.3):
        await client.run(BUSYBOX, ["sleep", "1000"], network=bridged)
    with pytest.raises(Exception, match="executable file not found"):
        await client.run(BUSYBOX, ["no-such-program"], network=bridged)


@pytest.fixture
def netns(real_machine: None) -> Iterator[str]:
    name = f"caio-{secrets.token_hex(3)}"
    _sh("ip", "netns", "add", name)
    yield f"/run/netns/{name}"
    _sh("ip", "netns", "delete", name)


async def test_check_finds_what_is_amiss(bridged: Network, netns: str) -> None:
    with pytest.raises(NotFound, match="not attached"):
        await bridged.check("one")
    result = await bridged.add("one", netns)
    await bridged.check("one")
    with pytest.raises(AlreadyExists, match=r"delete\(\) detaches it"):
        await bridged.add("one", netns)
    _sh("ip", "-n", Path(netns).name, "route", "delete", "default")
    with pytest.raises(cni.CNIError, match="failed in CHECK") as raised:
        await bridged.check("one")
    assert raised.value.plugin == "bridge"
    assert str(result.addresses[0]).startswith("10.213.")
    await bridged.delete("one", netns)
    await bridged.delete("one", netns)  # again: nothing happens
    assert "eth0" not in _sh("ip", "-n", Path(netns).name, "link")


async def test_add_that_fails_half_way_is_undone(bridged: Network, netns: str, tmp_path: Path) -> None:
    broken = Network(
        name=bridged.name,
        plugins=[bridged.plugins[0], {"type": "tuning", "sysctl": {"net.no.such.key": "1"}}],
        cni_version=bridged.cni_version,
        cache_dir=bridged.cache_dir,
    )
    with pytest.raises(cni.CNIError, match="'tuning' failed in ADD"):
        await broken.add("one", netns)
    assert "eth0" not in _sh("ip", "-n", Path(netns).name, "link")


async def test_loopback_up(netns: str, tmp_path: Path) -> None:
    async with Network.loopback(cache_dir=tmp_path).attach("one", netns, if_name="lo"):
        assert "UP" in _sh("ip", "-n", Path(netns).name, "link", "show", "lo")


async def test_refused_before_anything_is_made(bridged: Network, netns: str, tmp_path: Path) -> None:
    plain = Network(name="plain", plugins=[{"type": "bridge"}], cache_dir=tmp_path)
    for call, text in (
        (
            lambda: plain.add("one", netns, port_mappings=[PortMapping(host_port=1, container_port=1)]),
            "portMappings",
        ),
        (lambda: bridged.add("not valid", netns), "not valid for CNI"),
        (lambda: bridged.add("one", netns, if_name="much-too-long-a-name"), "interface name"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            await call()
    missing = Network(name="missing", plugins=[{"type": "no-such-plugin"}], cache_dir=tmp_path)
    with pytest.raises(NotFound, match="containernetworking-plugins"):
        await missing.add("one", netns)
    with pytest.raises(InvalidArgument, match="ports are 1 to 65535"):
        PortMapping(host_port=0, container_port=80)
    with pytest.raises(NotFound, match=r"no CNI network 'other'.*there are: none"):
        Network.load("other", conf_dir=tmp_path)
