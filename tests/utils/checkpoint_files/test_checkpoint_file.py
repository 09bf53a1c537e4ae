import io
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.base import ContainerMetadata, Metadata
from torch import nn

from tests.utils.hostile import Calls, flipped, saved
from utils.checkpoint_files.checkpoint_file import BadCheckpoint, load_checkpoint, save_checkpoint, verify_checkpoint

ROOT = Path(__file__).resolve().parents[3]


class Model(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.Linear(30, 4))


def checkpoint() -> dict:
    """As Lightning has it: weights, optimizer, counters, config."""
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 20)).sum().backward()
    optimizer.step()
    return {
        "epoch": 1,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "loops": {"fit_loop": {"epoch_progress": {"ready": 1, "is_last": False}}},
        "hyper_parameters": {"cfg": {"size": 20, "again": "${size}"}},
    }


def assert_same(first: object, second: object) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        [assert_same(first[key], second[key]) for key in first]
    elif isinstance(first, list | tuple):
        [assert_same(*pair) for pair in zip(first, second, strict=True)]
    else:
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def test_what_is_saved_is_loaded_from_a_path_a_text_and_an_open_file(tmp_path):
    content, path = checkpoint(), tmp_path / "a.ckpt"
    save_checkpoint(content, path)
    content["hyper_parameters"] = {"cfg": {"size": 20, "again": 20}}
    with open(path, "rb") as file:
        for source in (path, str(path), file, io.BytesIO(path.read_bytes())):
            verify_checkpoint(source)
            assert_same(load_checkpoint(source), content)
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_numbers_and_containers_that_torch_reads_are_read(tmp_path):
    content = {
        0.5: Counter("aab"),
        "z": 1 + 2j,
        "bytes": bytearray(b"x\xff"),
        "kind": torch.bfloat16,
        (1.5,): {None: 1},
    }
    save_checkpoint(content, tmp_path / "a.ckpt")
    assert_same(load_checkpoint(tmp_path / "a.ckpt"), content)
    values = torch.tensor([1 + 2j, 3 - 1j])
    for view in (values.conj(), values.conj().imag):
        save_checkpoint({"a": view}, tmp_path / "a.ckpt")
        assert torch.equal(load_checkpoint(tmp_path / "a.ckpt")["a"], view)


def test_a_config_that_asks_for_the_environment_is_left_out_where_none_is_needed(tmp_path, log):
    config = OmegaConf.create({"cfg": {"home": "${oc.env:HOME}"}})
    content = {"hyper_parameters": config, "datamodule_hyper_parameters": {"a": "${oc.env:HOME}"}, "epoch": 1}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(BadCheckpoint, match=r"a\.ckpt .*asks for more than keys.*weights alone"):
        load_checkpoint(tmp_path / "a.ckpt")
    assert load_checkpoint(tmp_path / "a.ckpt", needs_configs=False) == {"epoch": 1}
    assert "without its hyper_parameters now" in log.text


def test_plain_torch_opens_what_is_saved_and_the_name_leaves_no_trace(tmp_path):
    content = checkpoint()
    for name in ("a.ckpt", "another name.ckpt"):
        save_checkpoint(content, tmp_path / name)
        assert_same(torch.load(tmp_path / name, weights_only=True), content)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "another name.ckpt").read_bytes()


def test_a_checkpoint_that_could_not_be_loaded_again_is_not_saved(tmp_path):
    save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt can't be saved: .* names torch\.nn\.modules\.linear\.Linear"):
        save_checkpoint({"callbacks": {"mine": nn.Linear(1, 1)}}, tmp_path / "a.ckpt")
    assert load_checkpoint(tmp_path / "a.ckpt") == {"step": 1} and os.listdir(tmp_path) == ["a.ckpt"]


def test_a_thousand_changed_checkpoints_are_a_thousand_errors():
    whole = saved(checkpoint())
    rng = random.Random(0)
    for number in range(1000):
        if number % 4:
            changed = flipped(whole, rng.randrange(len(whole)), rng.randrange(1, 256))
        else:
            changed = whole[: rng.randrange(len(whole))]
        with pytest.raises(BadCheckpoint, match=r"x\.ckpt (is|has|isn't) ") as raised:
            load_checkpoint(io.BytesIO(changed), name="x.ckpt")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"<html>", bytes(5000)])
def test_what_is_no_checkpoint_at_all_is_refused_by_its_path(content, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"^\S+a\.ckpt (is|isn't) "):
        load_checkpoint(tmp_path / "a.ckpt")


def test_a_file_that_is_not_there_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, MemoryError, RecursionError, AssertionError, OverflowError])
def test_whatever_torch_raises_is_one_line_but_an_interrupt_stays_one(error, monkeypatch):
    def fails(*_, **__):
        raise error("first line\nsecond line")

    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(BadCheckpoint, match=rf"^x is damaged or hostile \({error.__name__}: .*first line"):
        load_checkpoint(io.BytesIO(saved({})), name="x")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(io.BytesIO(saved({})))


def test_what_else_a_program_allows_torch_is_not_used_here_and_stays_allowed_there():
    before = set(torch.serialization.get_safe_globals())
    allowed = {nn.Linear, DictConfig, ListConfig, AnyNode, ContainerMetadata, Metadata}  # as many programs do
    torch.serialization.add_safe_globals(list(allowed))
    try:
        assert load_checkpoint(io.BytesIO(saved({"x": OmegaConf.create({"a": 1})}))) == {"x": {"a": 1}}
        assert type(load_checkpoint(io.BytesIO(saved({"x": OmegaConf.create({"a": 1})})))["x"]) is dict
        with pytest.raises(BadCheckpoint, match=r"names torch\.nn\.modules\.linear\.Linear"):
            load_checkpoint(io.BytesIO(saved({"x": nn.Linear(1, 1)})))
        assert set(torch.serialization.get_safe_globals()) == before | allowed
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


@pytest.mark.parametrize("place", ["top", "hyper_parameters", "state_dict", "optimizer_states"])
def test_code_in_a_checkpoint_is_not_run(place, tmp_path):
    content, marker = checkpoint(), tmp_path / "ran"
    call = Calls(os.mkdir, str(marker))
    if place == "top":
        content = call
    elif place == "optimizer_states":
        content[place].append(call)
    else:
        content[place]["x"] = call
    torch.save(content, tmp_path / "a.ckpt")
    for read in (load_checkpoint, verify_checkpoint):
        with pytest.raises(BadCheckpoint, match=r"a\.ckpt names (posix|nt)\.mkdir, which is code and not data"):
            read(tmp_path / "a.ckpt")
    assert not marker.exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert marker.exists()  # the file is as bad as it says


FULL = """
import resource, signal, sys
import torch
from utils.checkpoint_files.checkpoint_file import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint({"a": torch.ones(60_000)}, sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path):
    save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    run = subprocess.run([sys.executable, "-c", FULL, tmp_path / "a.ckpt"], cwd=ROOT, capture_output=True, text=True)
    assert "a.ckpt can't be written: File too large" in run.stdout and run.stdout.count("\n") == 1, run.stderr
    assert load_checkpoint(tmp_path / "a.ckpt") == {"step": 1} and os.listdir(tmp_path) == ["a.ckpt"]
