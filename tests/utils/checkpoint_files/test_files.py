import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from utils.checkpoint_files.files import UNFINISHED, remove_unfinished, written_whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_an_exception_leaves_the_file_before_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"before")
    with pytest.raises(error), written_whole(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.ckpt"]


def test_the_file_appears_when_it_is_whole_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "new" / "folder" / "a.ckpt"
    with written_whole(path) as unfinished:
        unfinished.write_bytes(b"half")
        assert not path.exists() and unfinished.name.endswith(UNFINISHED)
        with open(unfinished, "ab") as file:
            file.write(b" and half")
    assert path.read_bytes() == b"half and half" and os.listdir(path.parent) == ["a.ckpt"]


@pytest.mark.parametrize("code", ["ENOSPC", "EIO"])
def test_a_full_disk_is_one_line_with_the_room_left_and_leaves_the_file_before(tmp_path, code):
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"before")
    full = OSError(getattr(errno, code), "No space left on device")
    said = pytest.raises(OSError, match=r"a\.ckpt can't be written: No space.*\d bytes are free")
    with said as raised, written_whole(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise full
    assert raised.value.errno == full.errno and "\n" not in str(raised.value)
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a.ckpt"]


def test_another_error_of_the_disk_stays_itself(tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), written_whole(tmp_path / "a.ckpt"):
        (tmp_path / "other").read_bytes()


def test_a_folder_is_no_file_to_replace(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"), written_whole(tmp_path):
        raise AssertionError("must not begin")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_the_permissions_are_those_of_the_file_before_or_the_usual_ones(tmp_path):
    usual, kept = tmp_path / "usual", tmp_path / "kept"
    usual.write_bytes(b"")
    expected = stat.S_IMODE(usual.stat().st_mode)
    usual.unlink()
    kept.write_bytes(b"")
    kept.chmod(0o640)
    for path in (usual, kept):
        with written_whole(path) as unfinished:
            unfinished.write_bytes(b"new")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (usual, kept)] == [expected, 0o640]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a privilege to make links")
def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path):
    (tmp_path / "best.ckpt").write_bytes(b"best")
    link = tmp_path / "last.ckpt"
    link.symlink_to("best.ckpt")
    with written_whole(link) as unfinished:
        unfinished.write_bytes(b"last")
    assert not link.is_symlink() and (tmp_path / "best.ckpt").read_bytes() == b"best"


def test_a_long_name_is_written_too(tmp_path):
    path = tmp_path / ("x" * 240 + ".ckpt")
    with written_whole(path) as unfinished:
        unfinished.write_bytes(b"all")
    assert path.read_bytes() == b"all"


def test_windows_waits_for_a_reader_of_the_old_file(tmp_path, monkeypatch):
    replace, refusals = os.replace, [PermissionError(), PermissionError()]

    def replace_later(*paths):
        if refusals:
            raise refusals.pop()
        replace(*paths)

    monkeypatch.setattr("utils.checkpoint_files.files.os.replace", replace_later)
    monkeypatch.setattr("utils.checkpoint_files.files.REPLACE_SECONDS", 5.0)
    with written_whole(tmp_path / "a") as unfinished:
        unfinished.write_bytes(b"all")
    assert (tmp_path / "a").read_bytes() == b"all"


def test_what_killed_processes_left_is_found_and_nothing_else(tmp_path):
    folder = tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt), written_whole(folder / "a.ckpt") as unfinished:
        left = Path(f"{unfinished}")
        raise KeyboardInterrupt
    left.write_bytes(b"half")  # as if the process had been killed
    kept = [folder / "a.ckpt", folder / f"notes{UNFINISHED}", folder / f"a.ckpt.12345678{UNFINISHED}.txt"]
    for path in kept:
        path.write_bytes(b"")
    assert remove_unfinished(tmp_path) == [left]
    assert sorted(folder.iterdir()) == sorted(kept) and remove_unfinished(tmp_path / "nowhere") == []


def test_a_folder_that_a_killed_conversion_left_goes_with_all_in_it(tmp_path):
    workshop = tmp_path / f".nest.nemo.1a2b3c4d{UNFINISHED}"
    workshop.mkdir()
    (workshop / f"nest.nemo.0a1b2c3d{UNFINISHED}").write_bytes(b"half")
    (workshop / "nest.nemo").write_bytes(b"whole")
    assert workshop in remove_unfinished(tmp_path) and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
@pytest.mark.parametrize("reason", ["EINVAL", "ENOTSUP", "EBADF", "EPERM"])
def test_a_file_system_that_syncs_no_folders_does_for_a_checkpoint(reason, tmp_path, monkeypatch):
    refuse_to_sync_folders(monkeypatch, getattr(errno, reason))
    with written_whole(tmp_path / "a") as unfinished:
        unfinished.write_bytes(b"all")
    assert (tmp_path / "a").read_bytes() == b"all"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
def test_a_disk_that_fails_while_a_folder_is_synced_is_an_error(tmp_path, monkeypatch):
    refuse_to_sync_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"), written_whole(tmp_path / "a") as unfinished:
        unfinished.write_bytes(b"all")


def refuse_to_sync_folders(monkeypatch, reason: int) -> None:
    sync = os.fsync

    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(reason, os.strerror(reason))
        sync(handle)

    monkeypatch.setattr("utils.checkpoint_files.files.os.fsync", refuse)
