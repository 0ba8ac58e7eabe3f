"""The commands about images, on real daemons."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from containerd_aio import Client
from containerd_aio.cli.main import main
from containerd_aio.cli.transfer_display import human_size
from containerd_aio.distribution.build import Variant, build_image, build_index
from tests.integration.cli_support import CLI
from tests.integration.image_support import collect_garbage

if TYPE_CHECKING:
    from containerd_aio.daemon import Daemon

NAME = "example.com/app:1"
IMAGE = build_image(layers=[{"a": b"1" * 4000}, {"b": b"2"}])
DIGEST = IMAGE.target.digest


def lines(output: bytes) -> list[str]:
    return output.decode().splitlines()


async def test_import_and_export_by_pipes_and_files(daemon: Daemon, namespace: str, tmp_path: Path) -> None:
    cli = CLI(daemon.address, namespace)
    done = await cli("import", "-", "--no-unpack", stdin=IMAGE.archive(NAME))
    assert (done.returncode, lines(done.stdout)) == (0, [f"{NAME} {DIGEST}"])
    assert b"archive: done" in done.stderr
    out = await cli("export", "-", NAME, "--compression", "zstd", "-q")
    assert (out.returncode, out.stderr) == (0, b"")
    (tmp_path / "app.tar.zst").write_bytes(out.stdout)
    done = await cli("import", "-q", str(tmp_path / "app.tar.zst"), "--digests", "by")
    assert lines(done.stdout) == [f"{NAME} {DIGEST}", f"by@{DIGEST} {DIGEST}"]
    failed = await cli("export", str(tmp_path / "none.tar"), "example.com/none:1")
    assert failed.returncode == 1
    assert b"not found" in failed.stderr
    assert not (tmp_path / "none.tar").exists()


def test_commands_about_images(
    daemon: Daemon, namespace: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    several = build_index(*(Variant([{"p": p.encode()}], platform=p) for p in ("linux/amd64", "linux/arm64")))

    def printed(*args: str, code: int = 0) -> list[str]:
        assert main(["--address", daemon.address, "--namespace", namespace, "images", *args]) == code
        said = capsys.readouterr()
        assert bool(said.err) == (code == 1 and not said.out)
        return said.out.splitlines()

    async def prepare() -> tuple[int, list[str]]:
        async with Client(daemon.address, namespace=namespace) as client:
            other = io.BytesIO(several.archive("example.com/several:1"))
            [image] = await client.import_archive(io.BytesIO(IMAGE.archive(NAME)), unpack=True)
            await client.import_archive(other, platform="linux/arm64")
            await collect_garbage(client.services)
            return await image.size(), [layer.digest for layer in (await image.manifest()).layers]

    size, layers = anyio.run(prepare)
    assert printed("tag", NAME, "example.com/app:2") == ["example.com/app:2"]
    assert printed("tag", NAME, "example.com/app:2", code=1) == []
    assert printed("tag", "--force", NAME, "example.com/app:2") == ["example.com/app:2"]
    names = [NAME, "example.com/app:2", "example.com/several:1"]
    assert printed("ls", "-q") == names
    listed = printed("ls")
    assert listed[0] == f"{NAME} {DIGEST} {human_size(size)} linux/amd64"
    assert listed[2].endswith(" - linux/amd64,linux/arm64")
    [row] = map(json.loads, printed("ls", "--json", f"name=={NAME}"))
    assert (row["digest"], row["size"], row["platforms"]) == (DIGEST, size, ["linux/amd64"])
    assert printed("label", NAME, "a=1", "b=") == ['{"a": "1"}']
    whole = json.loads("\n".join(printed("inspect", NAME)))
    assert (whole["unpacked"], whole["missing"], len(whole["manifest"]["layers"])) == (True, [], 2)
    checked = printed("check", code=1)
    assert checked[0].startswith(f"{NAME} complete (3/3) ")
    assert checked[0].endswith(" unpacked")
    assert checked[2].startswith("example.com/several:1 incomplete (0/1) ")
    assert printed("check", NAME) == checked[:1]
    content, everything = map(int, printed("usage", NAME)[0].split())
    assert size == content < everything
    epoch = "1970-01-01T00:00:00+00:00"
    assert printed("history", NAME) == [f"{epoch} {layer} containerd-aio" for layer in layers]
    [converted] = printed("convert", NAME, "example.com/app:z", "--compression", "zstd")
    assert converted.startswith("example.com/app:z sha256:")
    every = [*names, "example.com/app:z"]
    base = ["--address", daemon.address, "--namespace", namespace]
    (tmp_path / "app.tar").write_bytes(IMAGE.archive(NAME))
    for args, why in (
        (
            ["import", "-q", "--snapshotter", "nope", str(tmp_path / "app.tar")],
            "snapshotter not loaded: nope",
        ),
        (
            ["export", "-q", str(tmp_path / "no/x.tar"), NAME],
            f": {tmp_path}/no/x.tar: No such file or directory",
        ),
        (["import", "-q", "/proc/self/mem"], ": /proc/self/mem: Input/output error"),
    ):
        assert main([*base, *args]) == 1
        [said] = capsys.readouterr().err.splitlines()
        assert why in said
    assert printed("rm", "--sync", *every) == every
    assert printed("ls") == []
