import gzip
import json
import os
import shutil
import tarfile

import pytest

import data.tar_index
from data.tar_index import index_path, tar_index
from tests.data.tar_files import wav_bytes, write_tar

MEMBERS = {"a.wav": b"first" * 100, "folder/b.flac": b"", "long" * 60 + ".wav": b"x" * 1500, "é.opus": b"last"}


@pytest.fixture
def tar(tmp_path) -> str:
    return str(write_tar(tmp_path / "audio_0.tar", MEMBERS))


def contents(tar: str) -> dict[str, bytes]:
    index = tar_index(tar)
    with open(tar, "rb") as file:
        return {
            name: (file.seek(start), file.read(size))[1]
            for name, start, size in zip(index.names, index.starts, index.sizes, strict=True)
        }


def test_an_index_finds_every_member(tar):
    assert contents(tar) == MEMBERS
    assert contents(tar) == MEMBERS  # now from the file
    assert not tar_index(tar).cut_off


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_kinds_of_tar_are_read_and_only_their_files(tmp_path, kind):
    (tmp_path / "in").mkdir()
    name = "folder/" * 12 + "a_name_of_more_than_a_hundred_bytes_with_its_folders.wav"
    (tmp_path / "in" / "a.wav").write_bytes(b"abc")
    with tarfile.open(tmp_path / "x.tar", "w", format=kind) as tar:
        tar.add(tmp_path / "in", arcname="folder")
        tar.add(tmp_path / "in" / "a.wav", arcname=name)
    assert contents(str(tmp_path / "x.tar")) == {"folder/a.wav": b"abc", name: b"abc"}


def test_the_index_is_used_and_not_made_again(tar, monkeypatch):
    tar_index(tar)
    monkeypatch.setattr(data.tar_index, "walk", lambda file: pytest.fail("walked again"))
    assert contents(tar) == MEMBERS
    os.utime(tar, (1, 1))
    copied = shutil.copy(tar, f"{tar}.copy.tar")
    shutil.copy(index_path(tar), index_path(copied))
    assert contents(copied) == MEMBERS


def change_size(tar: str) -> None:
    write_tar(tar, MEMBERS | {"c.wav": b"y" * 20000})


def change_content_and_keep_size(tar: str) -> None:
    before = os.path.getsize(tar)
    write_tar(tar, {"b.wav" if name == "a.wav" else name: content for name, content in MEMBERS.items()})
    assert os.path.getsize(tar) == before


def cut_the_index(tar: str) -> None:
    with open(index_path(tar), "r+") as index:
        index.truncate(50)


def lie(**changes) -> object:
    def change_index(tar: str) -> None:
        with open(index_path(tar)) as file:
            stored = json.load(file)
        with open(index_path(tar), "w") as file:
            json.dump(stored | changes, file)

    return change_index


@pytest.mark.parametrize(
    "spoil",
    [
        change_size,
        change_content_and_keep_size,
        cut_the_index,
        lie(format=0),
        lie(starts=[-512, 512, 1024, 2048]),
        lie(sizes=[1, 2]),
        lie(names=None),
        lie(starts=["a", "b", "c", "d"]),
    ],
)
def test_an_index_that_is_not_that_of_the_tar_is_made_again(tar, spoil):
    tar_index(tar)
    spoil(tar)
    with tarfile.open(tar) as opened:
        expected = {member.name: opened.extractfile(member).read() for member in opened}
    assert contents(tar) == expected
    with open(index_path(tar)) as index:
        assert json.load(index)["names"] == list(expected)


def test_a_compressed_tar_is_refused_with_the_remedy(tar, tmp_path):
    packed = tmp_path / "audio_0.tar.gz"
    packed.write_bytes(gzip.compress((tmp_path / "audio_0.tar").read_bytes()))
    with pytest.raises(ValueError, match=r"audio_0.tar.gz' is compressed.*gunzip"):
        tar_index(str(packed))


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(700), b"\xff" * 5000])
def test_what_is_no_tar_has_no_members(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    assert tar_index(str(path)).names == []


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_tar_that_is_cut_off_keeps_the_members_before_the_cut(tmp_path, share):
    members = {f"{number}.wav": wav_bytes(number) for number in range(5)}
    path = write_tar(tmp_path / "x.tar", members)
    whole = tar_index(str(path))
    with open(path, "r+b") as file:
        file.truncate(int(share * (whole.starts[-1] + whole.sizes[-1])))
    index = tar_index(str(path))
    complete = [
        name for name, start, size in zip(index.names, index.starts, index.sizes) if start + size <= index.tar_bytes
    ]
    assert index.cut_off
    assert complete == list(members)[: len(complete)]
    assert len(complete) == int(share * 5)


def test_a_folder_that_nobody_may_write_to_stays_as_it_is(tar, tmp_path, caplog):
    tmp_path.chmod(0o555)
    try:
        assert contents(tar) == MEMBERS
        assert os.listdir(tmp_path) == ["audio_0.tar"]
        assert "can't be written to" in caplog.text
    finally:
        tmp_path.chmod(0o755)


def test_no_unfinished_index_is_left_behind(tar, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.tar_index.json, "dump", full)
    assert contents(tar) == MEMBERS
    assert os.listdir(tmp_path) == ["audio_0.tar"]
