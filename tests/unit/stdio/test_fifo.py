import os
import stat
import tempfile
from pathlib import Path

import pytest

from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from containerd_aio.stdio import fifo
from containerd_aio.stdio.fifo import FIFOSet, IOConfig, create_fifos, default_fifo_root, open_fifo


def test_layout_and_modes(fifo_root):
    fifos = create_fifos(fifo_root, "job", stdin=True, terminal=False)
    (directory,) = fifo_root.iterdir()
    assert fifos.config == IOConfig(
        stdin=f"{directory}/job-stdin", stdout=f"{directory}/job-stdout", stderr=f"{directory}/job-stderr"
    )
    assert sorted(path.name for path in directory.iterdir()) == ["job-stderr", "job-stdin", "job-stdout"]
    for path in (fifo_root, directory, *fifos.config.fifos):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in fifos.config.fifos:
        assert stat.S_ISFIFO(path.stat().st_mode)
    fifos.remove()
    fifos.remove()
    assert list(fifo_root.iterdir()) == []


def test_no_stdin_unless_asked_for_and_no_stderr_with_a_terminal(fifo_root):
    fifos = create_fifos(fifo_root, "job", stdin=False, terminal=True)
    assert fifos.config.stdin == fifos.config.stderr == ""
    assert fifos.config.terminal
    assert [path.name for path in fifos.config.fifos] == ["job-stdout"]
    fifos.remove()


def test_two_sets_of_one_id_do_not_meet(fifo_root):
    first, second = (create_fifos(fifo_root, "job", stdin=False, terminal=False) for _ in range(2))
    assert first.config.stdout != second.config.stdout
    first.remove()
    assert Path(second.config.stdout).exists()
    second.remove()


@pytest.mark.parametrize("process_id", ["", "a/b", "../x", "a\0b", "x" * 300])
def test_unusable_ids_are_refused_before_anything_is_made(fifo_root, process_id):
    with pytest.raises(InvalidArgument):
        create_fifos(fifo_root, process_id, stdin=False, terminal=False)
    assert not fifo_root.exists()


def test_a_relative_root_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="absolute"):
        create_fifos(Path("here"), "job", stdin=False, terminal=False)


def test_an_unusable_root_names_the_cure(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match=r"make room for them, or give io=stdio\.null\(\)"):
        create_fifos(tmp_path / "file", "job", stdin=False, terminal=False)


def test_a_failure_half_way_leaves_nothing(fifo_root, monkeypatch):
    made = []

    def second_fails(path, mode):
        if made:
            raise OSError(28, "No space left on device")
        made.append(path)
        real(path, mode)

    real = os.mkfifo
    monkeypatch.setattr(os, "mkfifo", second_fails)
    with pytest.raises(FailedPrecondition, match="No space left"):
        create_fifos(fifo_root, "job", stdin=False, terminal=False)
    assert made
    assert list(fifo_root.iterdir()) == []


def test_remove_spares_what_is_no_fifo_and_directories_in_use(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("data")
    FIFOSet(IOConfig(stdout=str(precious), stderr="file:///var/log/x")).remove()
    assert precious.read_text() == "data"


def test_open_fifo_says_what_is_wrong(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        open_fifo(str(tmp_path / "none"), os.O_RDONLY)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgument, match="not a FIFO"):
        open_fifo(str(tmp_path / "file"), os.O_RDONLY)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(FailedPrecondition):
        open_fifo(str(tmp_path / "link"), os.O_RDONLY)


def test_default_root_is_that_of_go_when_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(fifo, "DEFAULT_FIFO_ROOT", tmp_path / "containerd" / "fifo")
    assert default_fifo_root() == tmp_path / "containerd" / "fifo"
    assert list(tmp_path.iterdir()) == []  # asking makes nothing


@pytest.fixture
def unprivileged(monkeypatch):
    """Root may write everywhere: let access say no to all but the user's own runtime directory."""
    monkeypatch.setattr(os, "access", lambda path, _: str(path) == os.environ.get("XDG_RUNTIME_DIR"))


def test_default_root_of_a_user_with_a_session(tmp_path, monkeypatch, unprivileged):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_fifo_root() == tmp_path / "containerd-aio" / "fifo"


def test_default_root_of_a_user_without_one_is_private(tmp_path, monkeypatch, unprivileged):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = default_fifo_root()
    assert root.parent == tmp_path
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert default_fifo_root() == root
    root.chmod(0o777)
    with pytest.raises(PermissionDenied, match="set XDG_RUNTIME_DIR"):
        default_fifo_root()
