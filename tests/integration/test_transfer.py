"""Images moved by the daemon: pull and push against a real registry, import and export by streams."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme

from containerd_aio import Client, ContainerdError, InvalidArgument, NotFound, Unimplemented
from containerd_aio.distribution.build import BuiltImage, Variant, build_image, build_index
from containerd_aio.distribution.keychain import Credentials, StaticKeychain
from containerd_aio.distribution.progress import Action, ProgressEvent
from containerd_aio.distribution.remote import Remote
from containerd_aio.distribution.transfer import (
    RegistryOptions,
    export_by_daemon,
    import_by_daemon,
    offers_transfer,
    pull_by_daemon,
    push_by_daemon,
    tag_by_daemon,
)
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.leases import Leases
from containerd_aio.services.streaming import open_stream, receive_bytes, send_bytes
from containerd_aio.services.transfer import (
    ArchiveFromStream,
    ArchiveToStream,
    ExtraName,
    Transfer,
)
from containerd_aio.testing.registry import RegistryServer
from tests.integration.image_support import collect_garbage, in_chunks

if TYPE_CHECKING:
    from containerd_aio.daemon import Daemon

# bcrypt of "sesame"
USERS = "ali:$2b$04$IAttyY/rra8idB2f8buinOwo.o2w7O5kLG8jwpK8wqKM/ti5cyDbe\n"
FILES = [{"etc/one": b"1" * 5000}, {"etc/two": bytes(range(256)) * 2000}]


def only_on(*lines: str) -> pytest.MarkDecorator:
    """Run a test on these release lines; the transfer service came with 1.7."""
    return pytest.mark.parametrize("containerd_version", lines, indirect=True, scope="session")


@pytest.fixture
async def client(daemon: Daemon, namespace: str, containerd_version: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    folder = tmp_path / "hosts"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for loopback, and its key; beside them the authority that has signed it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
async def puller(
    private_daemon: Callable[..., Daemon], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """A client of a daemon that trusts `certificate`: 1.7's transfers speak TLS and can't be told whom to trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0].parent / "ca.pem"))
    async with private_daemon() as daemon, Client(daemon.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def sample() -> BuiltImage:
    return build_image(layers=FILES, config={"Cmd": ["/x"]})


@pytest.fixture(scope="module")
def several() -> BuiltImage:
    return build_index(*(Variant([{"arch": p.encode()}], platform=p) for p in ("linux/amd64", "linux/arm64")))


async def with_image(client: Client, image: BuiltImage, name: str, **options: Any) -> None:
    await client.import_archive(io.BytesIO(image.archive(name)), **options)


async def start_afresh(client: Client) -> None:
    for image in await client.images():
        await image.delete()
    await collect_garbage(client.services)
    assert await ContentStore(client.services).list() == []


@only_on("1.6")
async def test_without_a_transfer_service_it_says_so(
    client: Client, sample: BuiltImage, tmp_path: Path
) -> None:
    assert not await offers_transfer(client.services)
    steps: list[ProgressEvent] = []
    keychain = StaticKeychain({})
    await with_image(client, sample, "example.com/x:1")
    for work in (
        pull_by_daemon(client.services, "example.com/x:1"),
        pull_by_daemon(client.services, "example.com/x:1", progress=steps.append),
        push_by_daemon(client.services, "example.com/x:1", registry=RegistryOptions(keychain=keychain)),
        import_by_daemon(client.services, in_chunks(Path(__file__))),
        export_by_daemon(client.services, tmp_path / "out", "example.com/x:1"),
        tag_by_daemon(client.services, "example.com/x:1", "example.com/x:2"),
    ):
        with pytest.raises(Unimplemented, match=r"it came with containerd 1\.7"):
            await work
    assert not (tmp_path / "out").exists()
    assert await Leases(client.services).list() == []


@only_on("1.7", "2.1")
async def test_pull_and_push(puller: Client, certificate: tuple[Path, Path], sample: BuiltImage) -> None:
    async with RegistryServer(certificate=certificate) as registry:
        name = f"{registry.host}/team/app:1"
        await with_image(puller, sample, name)
        pushed: list[ProgressEvent] = []
        await push_by_daemon(puller.services, name, progress=pushed.append)
        await push_by_daemon(puller.services, f"{registry.host}/team/app:2", source=name)
        assert pushed
        await start_afresh(puller)
        pulled: list[ProgressEvent] = []
        assert await offers_transfer(puller.services)
        record = await pull_by_daemon(puller.services, name, labels={"from": "afar"}, progress=pulled.append)
        assert (record.name, record.target.digest) == (name, sample.target.digest)
        assert record.labels == {"from": "afar"}
        image = await puller.image(name)
        assert await image.is_unpacked()
        await collect_garbage(puller.services)
        assert (await image.check()).complete
        assert {Action.DONE, Action.OTHER} <= {step.action for step in pulled}
        assert any("ompleted" in step.text for step in pulled), "the last step was told, too"
        assert (await pull_by_daemon(puller.services, f"{registry.host}/team/app:2")).target == record.target
        with pytest.raises(NotFound):
            await pull_by_daemon(puller.services, f"{registry.host}/team/none:1", progress=pulled.append)
    assert await Leases(puller.services).list() == []
    await (await puller.image(name)).delete()
    await start_afresh(puller)


@only_on("1.7", "2.1")
async def test_the_daemon_pushes_when_it_is_asked_to(
    puller: Client, certificate: tuple[Path, Path], sample: BuiltImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RegistryServer(certificate=certificate) as registry:
        await with_image(puller, sample, "example.com/app:1")
        image = await puller.image("example.com/app:1")
        steps: list[ProgressEvent] = []
        with monkeypatch.context() as patch:
            patch.setattr(Remote, "open", None)  # this process speaks to no registry
            for tag, via in {"1": "daemon", "2": "auto"}.items():
                name = f"{registry.host}/team/app:{tag}"
                target = await puller.push(name, image, via=via, progress=steps.append)  # type: ignore[arg-type]
                assert target == image.target
                assert steps[-1] == ProgressEvent(Action.DONE, name, target=target)
        # A daemon knows no image without a name: "auto" leaves it to this process.
        await puller.push(f"{registry.host}/team/app:3", image.target, via="auto")
        await start_afresh(puller)
        for tag in ("1", "2", "3"):
            pulled = await puller.pull(f"{registry.host}/team/app:{tag}", via="daemon")
            assert pulled.target.digest == sample.target.digest
    await (await puller.image(f"{registry.host}/team/app:1")).delete()
    await start_afresh(puller)


async def test_what_only_this_process_pushes_is_not_asked_of_a_daemon(
    client: Client, registry: RegistryServer, sample: BuiltImage, containerd_version: str
) -> None:
    name = f"{registry.host}/only/{containerd_version}:1"
    await with_image(client, sample, name)
    image = await client.image(name)
    for options, why in (
        ({"platform": "linux/amd64", "chunk_size": 9}, "a daemon cannot push with platform, chunk_size"),
        ({"max_uploads": 1}, "push with max_uploads"),
        ({"image": image.target}, "an image without a name"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            await client.push(name, **options, via="daemon")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="a digest in the name"):
        await client.push(f"{name}@{image.target.digest}", image, via="daemon")
    with pytest.raises(InvalidArgument, match="via is 'ship'"):
        await client.push(name, via="ship")  # type: ignore[arg-type]
    withheld = json.loads(sample.blobs[image.target.digest])
    withheld["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    async with client.lease():
        content = ContentStore(client.services)
        data = json.dumps(withheld).encode()
        digest = await content.write("withheld", data, labels=sample.labels[image.target.digest])
        await client.image_store.update(name, Descriptor(image.target.media_type, digest, len(data)))
    with pytest.raises(InvalidArgument, match=r"does not name .* any more; look it up again"):
        await client.push(name, image, via="daemon")
    with pytest.raises(InvalidArgument, match="must not be passed on, and a daemon leaves out none"):
        await client.push(name, via="daemon")
    if containerd_version == "1.6":
        with pytest.raises(Unimplemented, match=r"it came with containerd 1\.7"):
            await client.push(name, via="daemon", skip_non_distributable=False)
    with pytest.raises(InvalidArgument, match="MANIFEST_BLOB_UNKNOWN"):  # this process left the layer out
        await client.push(name, via="auto", keychain=StaticKeychain({}))


@only_on("1.7", "2.1")
async def test_platforms_of_a_pull(
    puller: Client, certificate: tuple[Path, Path], several: BuiltImage
) -> None:
    async with RegistryServer(certificate=certificate) as registry:
        name = f"{registry.host}/several:1"
        await with_image(puller, several, name, all_platforms=True)
        await push_by_daemon(puller.services, name)
        await start_afresh(puller)
        await pull_by_daemon(puller.services, name, platform="linux/arm64", unpack=False)
        await collect_garbage(puller.services)
        assert len(await ContentStore(puller.services).list()) == 4
        await pull_by_daemon(puller.services, name, all_platforms=True, unpack=False)
        await collect_garbage(puller.services)
        assert len(await ContentStore(puller.services).list()) == 7
        with pytest.raises(InvalidArgument, match="not both"):
            await pull_by_daemon(puller.services, name, platform="linux/arm64", all_platforms=True)
        with pytest.raises(InvalidArgument):
            await pull_by_daemon(puller.services, name, snapshotter="no such snapshotter")


@only_on("1.7", "2.1")
async def test_credentials_go_to_who_asks(
    puller: Client,
    certificate: tuple[Path, Path],
    sample: BuiltImage,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "users").write_text(USERS)
    async with RegistryServer(htpasswd=tmp_path / "users", certificate=certificate) as registry:
        name = f"{registry.host}/secret:1"
        await with_image(puller, sample, name)
        right = RegistryOptions(keychain=StaticKeychain({registry.host: Credentials("ali", "sesame")}))
        wrong = RegistryOptions(keychain=StaticKeychain({registry.host: Credentials("ali", "wrong")}))
        elsewhere = RegistryOptions(
            keychain=StaticKeychain({"other.example.com": Credentials("ali", "sesame")})
        )
        for options in (wrong, elsewhere, None):
            with pytest.raises(ContainerdError) as caught:
                await push_by_daemon(puller.services, name, registry=options)
            assert "sesame" not in str(caught.value)
        await push_by_daemon(puller.services, name, registry=right)
        await start_afresh(puller)
        record = await pull_by_daemon(puller.services, name, registry=right)
        assert record.target.digest == sample.target.digest
        assert "sesame" not in caplog.text + repr(right)


@only_on("2.1")
async def test_plain_http_and_hosts_by_argument(client: Client, sample: BuiltImage, hosts: Path) -> None:
    async with RegistryServer() as registry:
        name = f"{registry.host}/app:1"
        await with_image(client, sample, name)
        await push_by_daemon(client.services, name, registry=RegistryOptions(plain_http=True))
        await start_afresh(client)
        folder = hosts / "mirrored.example.com"
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "http://{registry.host}"\n')
        record = await pull_by_daemon(
            client.services, "mirrored.example.com/app:1", registry=RegistryOptions(hosts_dir=str(hosts))
        )
        assert record.target.digest == sample.target.digest


@only_on("1.7")
async def test_what_the_daemon_would_ignore_is_refused(client: Client, hosts: Path) -> None:
    for options in (RegistryOptions(plain_http=True), RegistryOptions(hosts_dir=str(hosts))):
        with pytest.raises(Unimplemented, match=r"takes neither hosts_dir nor plain_http .* came with 2\.0"):
            await pull_by_daemon(client.services, "example.com/app:1", registry=options)


@only_on("1.7", "2.1")
async def test_a_failing_keychain_fails_the_pull(
    puller: Client, certificate: tuple[Path, Path], tmp_path: Path
) -> None:

    class Broken:
        async def credentials(self, registry: str, repository: str = "") -> None:
            raise InvalidArgument("the keychain's file is malformed")

    (tmp_path / "users").write_text(USERS)
    async with RegistryServer(htpasswd=tmp_path / "users", certificate=certificate) as registry:
        with pytest.raises(InvalidArgument, match="file is malformed"):
            await pull_by_daemon(
                puller.services,
                f"{registry.host}/x:1",
                registry=RegistryOptions(keychain=Broken()),
            )
    assert await Leases(puller.services).list() == []


@only_on("1.7", "2.1")
@pytest.mark.shows("go:TestTransferImport")
async def test_import_and_export(client: Client, sample: BuiltImage, tmp_path: Path) -> None:
    name = "example.com/app:1"
    steps: list[ProgressEvent] = []
    (tmp_path / "app.tar").write_bytes(sample.archive(name))
    [record] = await import_by_daemon(
        client.services, tmp_path / "app.tar", unpack=True, labels={"a": "b"}, progress=steps.append
    )
    assert (record.name, record.target.digest) == (name, sample.target.digest)
    assert steps
    image = await client.image(name)
    assert await image.is_unpacked()
    await collect_garbage(client.services)
    assert (await image.check()).complete
    out = tmp_path / "out.tar"
    size = await export_by_daemon(client.services, out, name, progress=steps.append)
    assert size == out.stat().st_size
    await start_afresh(client)
    [again] = await client.import_archive(out)
    assert again.target.digest == sample.target.digest
    with pytest.raises(NotFound):
        await export_by_daemon(client.services, tmp_path / "none.tar", "example.com/none:1")
    assert not (tmp_path / "none.tar").exists()
    with pytest.raises(ContainerdError):
        await import_by_daemon(client.services, in_chunks(Path(__file__), 100))
    assert await Leases(client.services).list() == []


@only_on("1.7", "2.1")
@pytest.mark.shows("go:TestTransferImport")
async def test_names_of_an_import(client: Client, sample: BuiltImage) -> None:
    digest = sample.target.digest

    async def names(archived: str, *extra: ExtraName, index_name: str = "") -> set[str]:
        archive = io.BytesIO(sample.archive(archived))
        await import_by_daemon(client.services, archive, names=extra, index_name=index_name)
        found = {image.name for image in await client.images()}
        await start_afresh(client)
        return found

    assert await names("example.com/app:1", index_name="example.com/index:1") == {
        "example.com/app:1",
        "example.com/index:1",
    }
    by_digest = ExtraName("example.com/by", is_prefix=True, allow_overwrite=True, add_digest=True)
    assert f"example.com/by@{digest}" in await names("example.com/app:1", by_digest)
    unnamed = ExtraName("example.com/by", is_prefix=True, allow_overwrite=True, skip_named_digest=True)
    assert await names("example.com/app:1", unnamed) == {"example.com/app:1"}


@only_on("1.7", "2.1")
async def test_tag(client: Client, sample: BuiltImage) -> None:
    await with_image(client, sample, "example.com/app:1")
    record = await tag_by_daemon(client.services, "example.com/app:1", "example.com/app:2")
    assert (record.name, record.target.digest) == ("example.com/app:2", sample.target.digest)
    with pytest.raises(NotFound):
        await tag_by_daemon(client.services, "example.com/none:1", "example.com/app:2")


@only_on("1.7", "2.1")
@pytest.mark.shows("go:TestTransferEcho")
@pytest.mark.parametrize("size", [0, 1, 32 << 10, (32 << 10) + 1, 3_000_001])
async def test_echo(client: Client, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, size, 70_001):
            yield data[at : at + 70_001]

    received: list[bytes] = []
    services = client.services
    async with open_stream(services) as there, open_stream(services) as back:

        async def receive() -> None:
            received.extend([chunk async for chunk in receive_bytes(back)])

        async with anyio.create_task_group() as group:
            group.start_soon(send_bytes, there, pieces())
            group.start_soon(receive)
            await Transfer(services).transfer(ArchiveFromStream(there.name), ArchiveToStream(back.name))
    assert b"".join(received) == data


@only_on("1.7", "2.1")
async def test_pairs_that_containerd_does_not_do(client: Client) -> None:
    async with open_stream(client.services) as stream:
        with pytest.raises(Unimplemented, match="Transfer"):
            await Transfer(client.services).transfer(
                ArchiveFromStream(stream.name), ArchiveFromStream(stream.name)
            )
    with pytest.raises(InvalidArgument):
        async with open_stream(client.services, name=""):
            pass


@only_on("1.7", "2.1")
async def test_a_cancelled_transfer_leaves_nothing(
    client: Client, sample: BuiltImage, tmp_path: Path
) -> None:
    archive = sample.archive("example.com/app:1")

    async def stuck() -> AsyncIterator[bytes]:
        yield archive[:4000]
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await import_by_daemon(client.services, stuck())
    assert scope.cancelled_caught

    async def breaks() -> AsyncIterator[bytes]:
        yield archive[:4000]
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="on fire"):
        await import_by_daemon(client.services, breaks())

    class Full:
        async def send(self, item: bytes) -> None:
            raise OSError("the disk is full")

    await with_image(client, sample, "example.com/app:1")
    with pytest.raises(OSError, match="is full"):
        await export_by_daemon(client.services, Full(), "example.com/app:1")
    assert await Leases(client.services).list() == []
    await start_afresh(client)
    assert await ContentStore(client.services).statuses() == []


@only_on("1.7", "2.1")
async def test_the_name_of_a_stream_is_taken_once(client: Client) -> None:
    async with open_stream(client.services, name="mine") as stream:
        assert repr(stream) == "<NamedStream mine>"
        with pytest.raises(ContainerdError, match="exists"):
            async with open_stream(client.services, name="mine"):
                pass
