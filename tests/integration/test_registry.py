"""Real registries: open, with passwords, with tokens, with TLS, behind a mirror."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import bcrypt
import pytest
import trustme

from containerd_aio.distribution.keychain import Credentials, FileKeychain
from containerd_aio.distribution.registry import Registry
from containerd_aio.distribution.upload import Uploader
from containerd_aio.errors import ConnectError, ContainerdError, NotFound, Unauthenticated
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.testing.registry import RegistryServer
from tests.integration.registry_support import ANONYMOUS, PASSWORD, USER, TokenServer, digest_of, noise

BLOB = noise(200_000, 7)
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
GIVEN = Credentials(USER, PASSWORD)


async def _source(offset: int) -> AsyncIterator[bytes]:
    yield BLOB[offset:]


async def round_trip(registry: Registry, repository: str = "t/app") -> None:
    """Push a blob, a config and a manifest that names them, and read them again."""
    target = Descriptor(MEDIA_TYPE, digest_of(BLOB), len(BLOB))
    uploader = Uploader(registry, repository)
    await uploader.push_blob(target, _source)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": target.to_json(),
            "layers": [],
        }
    ).encode()
    document = Descriptor("application/vnd.oci.image.manifest.v1+json", digest_of(manifest), len(manifest))
    await uploader.push_manifest(document, manifest, tag="one")
    assert await registry.resolve(repository, "one") == document
    assert await registry.resolve(repository, document.digest) == document
    assert await registry.manifest(repository, document) == manifest
    async with registry.blob(repository, target) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == BLOB
    assert await registry.tags(repository) == ["one"]
    assert await registry.referrers(repository, document.digest) == []


@pytest.fixture
def htpasswd(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_bytes(USER.encode() + b":" + bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)) + b"\n")
    return path


async def test_an_open_registry(registry: RegistryServer) -> None:
    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        await round_trip(opened, "t/open")
        with pytest.raises(NotFound, match="manifest t/open:none: status 404"):
            await opened.resolve("t/open", "none")
        with pytest.raises(NotFound, match="NAME_UNKNOWN"):
            await opened.tags("t/none")


@pytest.mark.parametrize("chunk_size", [70_000, 200_000, None])
async def test_chunks_of_any_size_are_put_together(registry: RegistryServer, chunk_size: int | None) -> None:
    target = Descriptor(MEDIA_TYPE, digest_of(BLOB), len(BLOB))
    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        repository = f"t/chunks-{chunk_size or 0}"
        await Uploader(opened, repository, chunk_size=chunk_size).push_blob(target, _source)
        assert await Uploader(opened, repository).exists(target)


async def test_a_cut_upload_is_resumed(registry: RegistryServer) -> None:
    target = Descriptor(MEDIA_TYPE, digest_of(BLOB), len(BLOB))
    asked: list[int] = []

    def source(offset: int) -> AsyncIterator[bytes]:
        asked.append(offset)
        return _source(offset)

    async with Registry(registry.host, keychain=ANONYMOUS) as opened:
        uploader = Uploader(opened, "t/cut", chunk_size=90_000)
        endpoint = uploader._endpoint
        usual, patches = endpoint.request, 0

        @asynccontextmanager
        async def failing(method, path, **options):  # type: ignore[no-untyped-def]
            nonlocal patches
            patches += method == "PATCH"
            if method == "PATCH" and patches == 2:
                raise ConnectError("cut", address="", reason="refused")
            async with usual(method, path, **options) as response:
                yield response

        endpoint.request = failing  # type: ignore[method-assign,assignment]
        await uploader.push_blob(target, source)
        assert asked == [0, 90_000, 180_000]
        async with opened.blob("t/cut", target) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == BLOB


async def test_a_registry_with_passwords(
    htpasswd: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with RegistryServer(htpasswd=htpasswd) as server:
        with caplog.at_level(logging.DEBUG):
            async with Registry(server.host, keychain=GIVEN) as opened:
                await round_trip(opened)
            for wrong in (Credentials(USER, "wrong-one", source="the test"), ANONYMOUS):
                async with Registry(server.host, keychain=wrong) as opened:
                    with pytest.raises(Unauthenticated) as caught:
                        await opened.resolve("t/app", "one")
                assert "wrong-one" not in str(caught.value)
                assert server.host in str(caught.value)
        assert PASSWORD not in caplog.text
        assert "wrong-one" not in caplog.text
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {server.host: {"username": USER, "password": PASSWORD}}}))
        async with Registry(server.host, keychain=FileKeychain(config)) as opened:
            assert await opened.tags("t/app") == ["one"]


async def test_a_registry_with_tokens(tmp_path: Path) -> None:
    async with TokenServer(tmp_path) as tokens, RegistryServer(token=tokens.config()) as server:
        async with Registry(server.host, keychain=GIVEN) as opened:
            await round_trip(opened, "t/app")
            target = Descriptor(MEDIA_TYPE, digest_of(BLOB), len(BLOB))
            # A mount needs the right to read where it comes from as well.
            mounted = await Uploader(opened, "t/other").push_blob(target, _source, mount_from=["t/app"])
            assert mounted == "mounted"
        # One token each, used for all requests that it is good for.
        assert tokens.requests == [
            ("POST", ["repository:t/app:pull,push"], "password"),
            ("POST", ["repository:t/app:pull", "repository:t/other:pull,push"], "password"),
        ]
        async with Registry(server.host, keychain=GIVEN) as opened:
            for _ in range(3):
                await opened.resolve("t/app", "one")
        assert len(tokens.requests) == 3
        async with Registry(server.host, keychain=ANONYMOUS) as opened:
            with pytest.raises(Unauthenticated, match="refuses anonymous access for repository:t/app:pull"):
                await opened.resolve("t/app", "one")


class _Authority:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.crt"
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.certificate = folder / "server.crt", folder / "server.key"
        issued.cert_chain_pems[0].write_to_path(str(self.certificate[0]))
        issued.private_key_pem.write_to_path(str(self.certificate[1]))
        ours = authority.issue_cert("client.example.com")
        self.client = folder / "client.cert", folder / "client.key"
        ours.cert_chain_pems[0].write_to_path(str(self.client[0]))
        ours.private_key_pem.write_to_path(str(self.client[1]))


def _hosts(folder: Path, host: str, text: str) -> Path:
    path = folder / "hosts" / host / "hosts.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return folder / "hosts"


async def test_tls_and_client_certificates_through_hosts_toml(tmp_path: Path) -> None:
    authority = _Authority(tmp_path)
    async with RegistryServer(certificate=authority.certificate, client_ca=authority.ca) as server:
        text = f'server = "{server.url}"\nca = "{authority.ca}"\n'
        without = _hosts(tmp_path / "without", server.host, text)
        async with Registry(server.host, keychain=ANONYMOUS, hosts_dir=without) as opened:
            with pytest.raises(ContainerdError):
                await opened.resolve("t/app", "one")
        pair = f'client = [["{authority.client[0]}", "{authority.client[1]}"]]\n'
        hosts = _hosts(tmp_path / "with", server.host, text + pair)
        async with Registry(server.host, keychain=ANONYMOUS, hosts_dir=hosts) as opened:
            await round_trip(opened)


async def test_tls_through_dockers_directory(tmp_path: Path) -> None:
    authority = _Authority(tmp_path)
    async with RegistryServer(certificate=authority.certificate) as server:
        folder = tmp_path / "certs.d" / server.host
        folder.mkdir(parents=True)
        strangers = tmp_path / "stranger"
        strangers.mkdir()
        (folder / "ca.crt").write_bytes(_Authority(strangers).ca.read_bytes())
        async with Registry(server.host, keychain=ANONYMOUS, hosts_dir=tmp_path / "certs.d") as opened:
            with pytest.raises(ConnectError, match="certificate is not trusted"):
                await opened.resolve("t/app", "one")
        (folder / "ca.crt").write_bytes(authority.ca.read_bytes())
        async with Registry(server.host, keychain=ANONYMOUS, hosts_dir=tmp_path / "certs.d") as opened:
            await round_trip(opened)


async def test_a_mirror_through_hosts_toml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with RegistryServer() as mirror, RegistryServer() as origin:
        async with Registry(mirror.host, keychain=ANONYMOUS) as opened:
            await round_trip(opened)
        hosts = _hosts(
            tmp_path,
            "registry.example.com",
            f'server = "{origin.url}"\n[host."{mirror.url}"]\ncapabilities = ["pull", "resolve"]\n',
        )
        with caplog.at_level(logging.INFO):
            async with Registry("registry.example.com", keychain=ANONYMOUS, hosts_dir=hosts) as opened:
                target = await opened.resolve("t/app", "one")
                # Which host has answered, and which file has named it.
                assert f"host='{mirror.host}'" in caplog.text
                assert str(hosts / "registry.example.com" / "hosts.toml") in caplog.text
                # What is pushed goes past the mirror.
                assert not await Uploader(opened, "t/app").exists(target)
                await round_trip(opened, "t/new")
        async with Registry(origin.host, keychain=ANONYMOUS) as opened:
            assert await opened.tags("t/new") == ["one"]
        async with Registry(mirror.host, keychain=ANONYMOUS) as opened:
            with pytest.raises(NotFound):
                await opened.tags("t/new")


async def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ContainerdError, match="its log ends with"):
        async with RegistryServer(certificate=(tmp_path / "none", tmp_path / "none")):
            pass
    with pytest.raises(ContainerdError, match="package docker-registry"):
        async with RegistryServer(binary="no-such-program"):
            pass


async def test_the_plugins_registry(containerd_registry: RegistryServer) -> None:
    async with Registry(containerd_registry.host, keychain=ANONYMOUS) as opened:
        await round_trip(opened)
