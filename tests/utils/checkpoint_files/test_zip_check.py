import io
import random
import zipfile

import pytest
import torch

from tests.utils.hostile import archive, flipped, saved
from utils.checkpoint_files.zip_check import check_zip

CONTENT = {"state_dict": {"a": torch.arange(3.0), "b": torch.zeros(40, dtype=torch.int64)}, "step": 1}


def check(content: bytes):
    return check_zip(io.BytesIO(content))


def test_what_torch_saves_passes_with_the_size_of_every_record():
    found = check(saved(CONTENT))
    assert found.sizes["data/0"] == 12 and found.sizes["data/1"] == 320
    assert found.sizes["data.pkl"] == len(found.pickle) and found.pickle.startswith(b"\x80\x02}")


@pytest.mark.parametrize("aligned", [8, 64, 4096])
def test_every_alignment_of_torch_passes(aligned):
    config = pytest.importorskip("torch.utils.serialization").config
    with config.patch("save.storage_alignment", aligned):
        assert check(saved(CONTENT)).sizes["data/0"] == 12


@pytest.mark.parametrize("bits", [0x01, 0x20, 0x80, 0xFF])
def test_any_changed_byte_is_an_error(bits):
    whole = saved(CONTENT)
    rng = random.Random(bits)
    for position in rng.sample(range(len(whole)), 400):
        with pytest.raises(ValueError, match=r"damaged|cut off|TorchScript|two records|compressed|doesn't begin|codec"):
            check(flipped(whole, position, bits))


@pytest.mark.slow
def test_any_change_of_any_byte_is_an_error():
    whole = saved({"a": torch.arange(3.0)})
    loaded = []
    for position in range(len(whole)):
        for bits in range(1, 256, 2):
            try:
                check(flipped(whole, position, bits))
                loaded.append((position, bits))
            except ValueError:
                continue
    assert not loaded


def test_any_cut_is_an_error():
    whole = saved(CONTENT)
    for end in range(0, len(whole), 3):
        with pytest.raises(ValueError, match=r"empty|cut off|doesn't begin"):
            check(whole[:end])


@pytest.mark.parametrize("added", [b"\0", b"PK", bytes(100), b"x" * 5000])
def test_what_is_added_before_or_after_is_an_error(added):
    for content in (saved(CONTENT) + added, added + saved(CONTENT)):
        with pytest.raises(ValueError, match=r"doesn't end|doesn't begin"):
            check(content)


def test_two_archives_in_one_file_are_an_error():
    with pytest.raises(ValueError, match=r"doesn't end"):
        check(saved({"harmless": 1}) + saved({"other": 1}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"x" * 1000, "doesn't begin"),
        (b"\x80\x04K\x01.", "bare pickle.*torch.save it anew"),
    ],
)
def test_other_files_are_refused_with_a_reason(content, said):
    with pytest.raises(ValueError, match=said):
        check(content)


def test_the_format_before_torch_1_6_is_refused_with_a_remedy():
    file = io.BytesIO()
    torch.save(CONTENT, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"pickle of torch before 1\.6, which can hold any code: .*torch.save it anew"):
        check(file.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_another_program_is_refused(method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as other:
        other.writestr("archive/data.pkl", b"\x80\x02}.")
        other.writestr("archive/version", b"3\n")
    with pytest.raises(ValueError, match=r"doesn't end as torch.save ends it"):
        check(file.getvalue())


def test_a_torchscript_program_is_refused():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    with pytest.raises(ValueError, match=r"TorchScript|compressed"):
        check(file.getvalue())


def test_a_pickle_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("utils.checkpoint_files.zip_check.PICKLE_MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"has 2,0.. bytes beside its tensors, more than 1,000"):
        check(saved({"x": "y" * 2000}))


def test_contents_that_are_not_wanted_are_not_read():
    content = bytearray(archive(b"\x80\x02}.", **{"0": b"x" * 100}))
    content[content.index(b"x" * 100)] ^= 1
    assert check_zip(io.BytesIO(content), contents=False).sizes["data/0"] == 100
    with pytest.raises(ValueError, match=r"damaged at the record 'archive/data/0'"):
        check(bytes(content))


@pytest.mark.slow
def test_files_beyond_4_gib_pass(tmp_path):
    large = torch.zeros((1 << 32) + 5, dtype=torch.uint8)
    torch.save({"large": large, "a": torch.ones(5)}, tmp_path / "x.ckpt")  # records after it start beyond 4 GiB
    del large
    with open(tmp_path / "x.ckpt", "rb") as file:
        assert list(check_zip(file).sizes.values()).count((1 << 32) + 5) == 1
