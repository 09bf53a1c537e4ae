import gzip
import io
import tarfile

import pytest

from tests.utils.hostile import flipped
from utils.checkpoint_files.tar_members import (
    BLOCK,
    RECORD,
    Window,
    large_member,
    members,
    opened_tar,
    write_end,
    write_member,
)

FILES = {"./a.yaml": b"text", "folder/b": bytes(range(256)) * 5, "empty": b"", "x" * 150: b"long", "ä/ü": b"1"}


def tar_of(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, **changes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(content: bytes) -> dict[str, bytes]:
    file = io.BytesIO(content)
    return {member.name: Window(file, member.start, member.size).read() for member in members(file)}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_file_is_found_with_its_content(form):
    assert read(tar_of(FILES, form)) == FILES
    assert read(tar_of(FILES, form, mtime=1795158512.25, uname="user", mode=0o600)) == FILES


def test_what_is_written_is_a_tar_to_python_and_to_us():
    file = io.BytesIO()
    write_member(file, "./", b"")
    write_member(file, "./a", b"small", comment="remark")
    with large_member(file, "./b"):
        file.write(b"large" * 1000)
    write_end(file)
    assert len(file.getvalue()) % RECORD == 0
    assert read(file.getvalue()) == {"./a": b"small", "./b": b"large" * 1000}
    assert [member.comment for member in members(file)] == ["remark", ""]
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        assert [(m.name, m.size, m.mtime, m.isdir()) for m in tar] == [
            (".", 0, 0, True),
            ("./a", 5, 0, False),
            ("./b", 5000, 0, False),
        ]


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("/etc/passwd", {}, "leads out of the archive, '/etc/passwd'"),
        ("../x", {}, "leads out"),
        ("a/../../x", {}, "leads out"),
        ("a/..", {}, "leads out"),
        ("..\\x", {}, "leads out"),
        ("\\\\server\\x", {}, "leads out"),
        ("C:\\x", {}, "leads out"),
        ("c:x", {}, "leads out"),
        ("a\nb", {}, "control characters"),
        ("a\x1b[31mb", {}, "control characters"),
        ("x", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a symbolic link, 'x'"),
        ("x", {"type": tarfile.LNKTYPE, "linkname": "y"}, "a hard link"),
        ("x", {"type": tarfile.CHRTYPE}, "a device"),
        ("x", {"type": tarfile.BLKTYPE}, "a device"),
        ("x", {"type": tarfile.FIFOTYPE}, "a pipe"),
        ("x", {"type": tarfile.GNUTYPE_SPARSE}, "a sparse file"),
        ("x", {"type": b"Q"}, "of an unknown kind"),
        ("x", {"pax_headers": {"GNU.sparse.major": "1"}}, "header that isn't known, 'GNU.sparse.major'"),
        ("x", {"pax_headers": {"linkpath": "/etc"}}, "header that isn't known"),
        ("x", {"pax_headers": {"path": "/etc/passwd"}}, "leads out"),
        ("x", {"pax_headers": {"comment": "c" * 100_000}}, "has a header of 100,"),
    ],
)
def test_members_that_could_do_harm_are_refused_wherever_they_stand(name, changes, said):
    for files in ([name], ["good", name]):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for member in files:
                info = tarfile.TarInfo(member)
                for key, value in changes.items() if member == name else ():
                    setattr(info, key, value)
                tar.addfile(info)
        with pytest.raises(ValueError, match=said):
            members(file)


@pytest.mark.parametrize("content", [b"", b"x", b"text" * 1000, b"PK\x03\x04" * 200])
def test_what_is_no_tar_is_refused(content):
    with pytest.raises(ValueError, match=r"neither a \.tar nor a \.tar\.gz"):
        members(io.BytesIO(content))


def test_a_cut_tar_is_refused():
    whole = tar_of(FILES)
    for end in [*range(BLOCK, len(whole), 200), len(whole) - 1]:
        with pytest.raises(ValueError, match="cut off"):
            members(io.BytesIO(whole[:end]))


@pytest.mark.parametrize("added", [b"x", bytes(BLOCK), bytes(RECORD - 1) + b"x", "another tar"])
def test_what_is_added_at_the_end_is_refused(added):
    whole = tar_of(FILES)
    with pytest.raises(ValueError, match="something was added"):
        members(io.BytesIO(whole + (whole if added == "another tar" else added)))


def test_a_changed_byte_of_a_header_or_between_members_is_an_error():
    whole = tar_of({"a": b"text", "b": b"more"})
    content = {*range(BLOCK, BLOCK + 4), *range(3 * BLOCK, 3 * BLOCK + 4)}
    for position in range(0, 5 * BLOCK):
        if position not in content:
            with pytest.raises(ValueError, match=r"damaged|neither|unknown|leads out|a \w+ \w+|a folder|a device"):
                members(io.BytesIO(flipped(whole, position, 1)))


def test_a_size_beyond_the_file_is_an_error():
    for size in ("9" * 15, str(2**63), "-1"):
        with pytest.raises(ValueError, match="cut off or damaged"):
            members(io.BytesIO(tar_of({"a": b"1"}, pax_headers={"size": size})))


def test_too_many_members_are_refused(monkeypatch):
    monkeypatch.setattr("utils.checkpoint_files.tar_members.MAX_MEMBERS", 5)
    with pytest.raises(ValueError, match="more than 5 members"):
        members(io.BytesIO(tar_of({str(i): b"" for i in range(6)})))


def test_a_gz_is_unpacked_to_a_file_without_a_name(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(tar_of(FILES)))
    with opened_tar(tmp_path / "a") as file:
        assert read(file.read()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_gz_of_zeros_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.checkpoint_files.tar_members.FREE_GROWTH", 1 << 20)
    written = []
    monkeypatch.setattr("utils.checkpoint_files.tar_members.CHUNK", 1 << 16)
    (tmp_path / "a").write_bytes(gzip.compress(tar_of({"a": bytes(8 << 20)})))
    with pytest.raises(ValueError, match="unpacks to more than 1,048,576 bytes"), opened_tar(tmp_path / "a"):
        written.append("never")
    assert not written


def test_a_damaged_gz_is_an_error(tmp_path):
    whole = gzip.compress(tar_of(FILES), mtime=0)
    for content in (whole[:-1], whole[:50], whole + b"x", flipped(whole, 100, 1), flipped(whole, len(whole) - 6, 1)):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match="cut off or damaged"), opened_tar(tmp_path / "a") as file:
            members(file)
