import gzip
import io
import os
import random
import tarfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from core.connectors.nemo_file import CONFIG, WEIGHTS, read_nemo_config, read_nemo_weights, write_nemo
from tests.utils.hostile import Calls, flipped, saved
from utils.checkpoint_files.checkpoint_file import BadCheckpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}
YAML = {"size": 3, "parts": [1, 2.5e-7, None, True, "true", "1e3", "ä"], "encoder": {"d_model": 16}}


def nemo(config: bytes | str, weights: bytes = b"", mode: str = "w", folder: str = "./", **others: bytes) -> bytes:
    """A .nemo as NeMo packs it, of any content."""
    file = io.BytesIO()
    content = config.encode() if isinstance(config, str) else config
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in {CONFIG: content, WEIGHTS: weights or saved(STATE), **others}.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.nemo"


def assert_refused(path: Path, said: str) -> None:
    with pytest.raises(BadCheckpoint, match=said) as raised:
        read_nemo_config(path)
        read_nemo_weights(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


@pytest.mark.parametrize("folder", ["./", "", "folder/", "./a/b/"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_every_way_that_nemo_packed_a_model_is_read(path, folder, mode):
    path.write_bytes(nemo(OmegaConf.to_yaml(YAML), mode=mode, folder=folder, vocabulary=b"other", tokenizer=b""))
    assert OmegaConf.to_container(read_nemo_config(path)) == YAML
    torch.testing.assert_close(read_nemo_weights(path), STATE, rtol=0, atol=0)
    assert os.listdir(path.parent) == ["x.nemo"]


def test_a_file_of_nemo_is_read(golden):
    source = golden / "9_nemo_file" / "small_pre.nemo"
    with tarfile.open(source) as tar:
        theirs = torch.load(io.BytesIO(tar.extractfile(f"./{WEIGHTS}").read()), weights_only=True)
        text = tar.extractfile(f"./{CONFIG}").read().decode()
    torch.testing.assert_close(read_nemo_weights(source), dict(theirs), rtol=0, atol=0)
    assert read_nemo_config(source) == OmegaConf.create(text)


def test_the_model_section_of_a_whole_config_is_taken_with_its_references(path):
    path.write_bytes(nemo("name: x\nrate: 8000\nmodel:\n  rate: ${rate}\n  half: ${.rate}\n  encoder: {d: 1}\n"))
    assert read_nemo_config(path) == {"rate": 8000, "half": 8000, "encoder": {"d": 1}}


def test_what_is_written_is_read_and_the_same_model_makes_the_same_bytes(path):
    config = OmegaConf.create(YAML | {"same": "${size}"})
    for name in (path, path.with_name("other.nemo")):
        write_nemo(name, config, STATE)
        assert OmegaConf.to_container(read_nemo_config(name)) == YAML | {"same": 3}
        torch.testing.assert_close(read_nemo_weights(name), STATE, rtol=0, atol=0)
    assert path.read_bytes() == path.with_name("other.nemo").read_bytes()
    with tarfile.open(path) as tar:
        assert tar.getnames() == [".", f"./{CONFIG}", f"./{WEIGHTS}"]
        weights = tar.extractfile(f"./{WEIGHTS}").read()
    torch.testing.assert_close(torch.load(io.BytesIO(weights), weights_only=True), STATE, rtol=0, atol=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_a_write_that_breaks_off_leaves_the_file_before(path, monkeypatch, error):
    write_nemo(path, OmegaConf.create({"a": 1}), STATE)

    def breaks(_, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(error):
        write_nemo(path, OmegaConf.create({"a": 2}), STATE)
    assert read_nemo_config(path) == {"a": 1} and os.listdir(path.parent) == ["x.nemo"]


def test_a_config_that_could_not_be_read_again_is_not_written(path):
    with pytest.raises(ValueError, match=r"asks for more than keys"):
        write_nemo(path, OmegaConf.create({"a": {"b": "\\${oc.env:HOME}"}}), STATE)
    assert os.listdir(path.parent) == []


def test_any_changed_byte_of_ours_is_an_error(path):
    write_nemo(path, OmegaConf.create(YAML), STATE)
    whole, rng = path.read_bytes(), random.Random(0)
    for position in [*range(0, 4 * 512, 3), *rng.sample(range(len(whole)), 200)]:
        path.write_bytes(flipped(whole, position, rng.randrange(1, 256)))
        assert_refused(path, ".")
    for end in rng.sample(range(len(whole)), 100):
        path.write_bytes(whole[:end])
        assert_refused(path, ".")


@pytest.mark.slow
def test_a_changed_byte_of_a_nemo_file_is_an_error_wherever_it_has_a_checksum(golden, tmp_path):
    """Tar has none for the yaml and for dates in `pax` headers; NeMo writes no other."""
    whole, path = (golden / "9_nemo_file" / "small_pre.nemo").read_bytes(), tmp_path / "x.nemo"
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        spans = [range(m.offset_data, m.offset_data + m.size) for m in tar if m.name.endswith("yaml")]
    rng, loaded = random.Random(0), 0
    for position in (rng.randrange(len(whole)) for _ in range(1000)):
        path.write_bytes(flipped(whole, position, 1 << rng.randrange(8)))
        try:
            read_nemo_config(path)
            read_nemo_weights(path)
            loaded += 1
            assert any(position in span for span in spans) or b"mtime=" in whole[position - 24 : position]
        except BadCheckpoint:
            continue
    assert loaded <= 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system ['true']", "has a tag in its model_config.yaml, line 1: .*python"),
        ("a: 1\nb: !!python/name:os.system", "has a tag .*line 2"),
        ("a: !evil 1", "has a tag"),
        ("a: !!binary aGk=", "has a tag"),
        ("a: &x [1]\nb: *x", "has an anchor or alias"),
        ("a: &x 1", "has an anchor"),
        ("a: ${oc.env:HOME}", r"model_config\.yaml\.a='\$\{oc.env:HOME\}' asks for more than keys"),
        ("a: {b: ['x ${oc.env:HOME}']}", r"a\.b\.0="),
        ("a: ${b}", "isn't there"),
        ("a: ${a}", "goes in a circle"),
        ("a: ${", "asks for more than keys|can't be read"),
        ("[" * 60 + "]" * 60, "nested more than 50"),
        ("[" * 100_000, "nested more than 50"),
        ("- 1\n- 2", "no mapping"),
        ("text", "no mapping"),
        ("", "no mapping"),
        ("model: 5", "no mapping"),
        ("a: [1", "can't be read"),
        ("a: 1\na: 2", "can't be read"),
        ("a: 1\n---\nb: 2", "can't be read"),
        ("a: \x00", "can't be read"),
        (b"a: \xff\xfe", "UnicodeDecodeError"),
        ("a: " + "9" * 5000, "."),
        ("a: " + "x" * (1 << 21), "of 2,097,155 bytes, more than 2,097,152"),
    ],
)
def test_a_yaml_that_is_more_than_data_is_refused(path, text, said):
    path.write_bytes(nemo(text))
    assert_refused(path, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (nemo("a: 1", **{f"more/{CONFIG}": b"a: 2"}), f"two members called {CONFIG}"),
        (nemo("a: 1", **{f"more/{WEIGHTS}": b""}), f"two members called {WEIGHTS}"),
        (nemo("a: 1", **{"../outside": b""}), r"leads out of the archive, './\.\./outside'"),
        (nemo("a: 1", folder="/"), "leads out"),
        (nemo("a: 1", saved({"a": "text"})), f"{WEIGHTS} holds 'a', which is no tensor"),
        (nemo("a: 1", saved({"a": Calls(os.system, "true")})), r"system, which is code and not data"),
        (nemo("a: 1", b"x" * 100), f"{WEIGHTS} isn't a file of torch.save"),
        (b"", "neither"),
        (saved(STATE), "neither"),
        (gzip.compress(b"text"), "neither"),
        (b"\x1f\x8b", "cut off or damaged"),
    ],
)
def test_a_hostile_or_other_archive_is_refused(path, content, said):
    path.write_bytes(content)
    assert_refused(path, said)


def test_an_archive_without_a_model_says_what_it_lacks(path):
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert_refused(path, f"holds no {CONFIG} and no {WEIGHTS}")


def test_a_file_that_is_not_there_is_the_usual_error(path):
    for read in (read_nemo_config, read_nemo_weights):
        with pytest.raises(FileNotFoundError):
            read(path)
