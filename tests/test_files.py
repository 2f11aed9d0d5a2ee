"""Files are replaced whole or not at all, and locked while a run writes them."""

import contextlib
import errno
import fcntl
import io
import os
import threading
from pathlib import Path

import pytest
import torch
from common import everything_in

from support.errors import UserError
from support.files import locked, packed, read_dict, replace_file, unpacked
from support.runs import RunFiles

# Writing


def failing(number):
    raise OSError(number, os.strerror(number))


def full(*_, **__):
    failing(errno.ENOSPC)


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "error"), [(full, UserError), (interrupted, KeyboardInterrupt)]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, step, failure, error
):
    path = tmp_path / "net.pt"
    replace_file(path, packed({"old": 1}))
    before = everything_in(tmp_path)
    monkeypatch.setattr(os, step, failure)
    named = f"{path}.*No space left on device" if error is UserError else None
    with pytest.raises(error, match=named):
        replace_file(path, packed({"new": torch.zeros(1000)}))
    monkeypatch.undo()
    assert everything_in(tmp_path) == before


def test_a_write_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "written" / "net.pt"
    path.parent.mkdir()
    for value in (1, 2):
        replace_file(path, packed({"value": value}))
        assert read_dict(path) == {"value": value}
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_whole_however_many_write_it_at_once(tmp_path):
    contents = [bytes([number]) * 300_000 for number in range(4)]

    def write(content):
        for _ in range(20):
            replace_file(tmp_path / "net.pt", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not (tmp_path / "net.pt").exists() or (tmp_path / "net.pt").read_bytes() in contents
    assert [path.name for path in tmp_path.glob("*net*")] == ["net.pt"]


def test_what_a_killed_run_left_half_written_goes_with_the_next_run(tmp_path):
    (tmp_path / ".net.pt.resume.123-4.part").write_bytes(b"cut")
    (tmp_path / ".net.pt_of_mine.part").write_bytes(b"mine")
    with RunFiles(tmp_path / "net.pt").locked():
        assert [path.name for path in tmp_path.glob(".net*")] == [".net.pt_of_mine.part"]


@pytest.mark.parametrize("path", ["missing/net.pt", "file/net.pt", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=path):
        replace_file(tmp_path / path, packed({"value": 1}))
    assert everything_in(tmp_path) == before


# Reading


def test_a_disk_that_fails_is_not_called_a_damaged_file():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            return super().read(size) if self.tell() > 100 else failing(errno.EIO)

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        unpacked(Failing(packed({"value": 1})))


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    replace_file(tmp_path / "net.pt", packed({"value": torch.zeros(1000)}))
    monkeypatch.setattr("support.files.MAX_UNPACKED", 4000)
    with pytest.raises(UserError, match=r"net\.pt .*too large"):
        read_dict(tmp_path / "net.pt")


# Locks


def test_an_output_that_is_being_written_is_refused_to_a_second_run(tmp_path):
    with locked(tmp_path / "net.pt"):
        with pytest.raises(UserError, match=r"net\.pt"), locked(tmp_path / "net.pt"):
            pass
        with locked(tmp_path / "other.pt"):
            pass
        with pytest.raises(UserError), locked(tmp_path / "net.pt"):
            pass


def test_the_lock_goes_however_the_run_ends(tmp_path):
    """And one that a killed run left behind does not count."""
    before = everything_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "net.pt"):
        raise KeyboardInterrupt
    assert everything_in(tmp_path) == before
    (tmp_path / "net.pt.lock").write_text("12345")
    with locked(tmp_path / "net.pt"):
        pass


def test_the_file_of_a_lock_is_not_removed_from_under_the_next_run(tmp_path, monkeypatch):
    unlink = Path.unlink

    def unlink_while_it_is_locked(path, **options):
        with open(path, "w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink_while_it_is_locked)
    with locked(tmp_path / "net.pt"):
        pass
    assert not (tmp_path / "net.pt.lock").exists()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_where_files_cannot_be_locked_a_run_goes_on_and_says_so(
    tmp_path, monkeypatch, capsys, number
):
    """Other failures are refused."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: failing(number))
    if number == errno.EIO:
        with pytest.raises(UserError, match=r"net\.pt"), locked(tmp_path / "net.pt"):
            pass
        return
    with locked(tmp_path / "net.pt"):
        pass
    told = capsys.readouterr().err
    assert number == errno.ENOSYS or ("no file locking here" in told and "net.pt" in told)
    assert list(tmp_path.glob("net*")) == []


@pytest.mark.parametrize("content", [b"PK\x03\x04 a checkpoint", b"my notes", b"\x80\x02"])
def test_a_file_that_only_has_the_name_of_a_lock_is_kept(tmp_path, content):
    (tmp_path / "net.pt.lock").write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pt\.lock"), locked(tmp_path / "net.pt"):
        pass
    assert (tmp_path / "net.pt.lock").read_bytes() == content


@pytest.mark.parametrize("name", ["net.pt.lock", ".net.pt.part"])
def test_links_with_the_names_of_our_files_are_not_followed(tmp_path, name):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    with contextlib.suppress(UserError), locked(tmp_path / "net.pt"):
        replace_file(tmp_path / "net.pt", b"content")
    assert (tmp_path / "precious").read_text() == "mine"
