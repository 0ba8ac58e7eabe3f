"""Go's client as a peer, built offline from Debian's packages; without them the benchmarks say so and go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "go"
GOPATH = Path("/usr/share/gocode")
PACKAGES = "golang-go golang-github-containerd-containerd-dev"


def build(program: str, folder: Path) -> Path | None:
    """Build ``go/PROGRAM`` into `folder`; return the binary, or None after saying why there is none."""
    if shutil.which("go") is None or not (GOPATH / "src/github.com/containerd/containerd/client.go").exists():
        print(f"Go's client is left out: it needs `apt-get install --no-install-recommends {PACKAGES}`")
        return None
    binary = folder / program
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
    environment.setdefault("GOCACHE", str(folder / "cache"))
    command = ["go", "build", "-o", str(binary), "."]
    done = subprocess.run(
        command, cwd=SOURCES / program, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"Go's client is left out: it can't be built: {done.stderr.strip()}")
        return None
    return binary
