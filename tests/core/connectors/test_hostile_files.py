"""One malicious file of each kind, given to what users call. Each would leave a mark if its code were run."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from core.connectors.nemo_file import CONFIG, WEIGHTS
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel as Model
from tests.utils.hostile import Calls, saved

NO_TARGET = r"_target_='os\.system'|_target_='posix\.system'"


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def config(small_config) -> dict:
    return OmegaConf.to_container(small_config(), resolve=True)


def write(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            if isinstance(content, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                tar.addfile(content)
    return path


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def evil_target(config: dict, mark: Path, section: str) -> dict:
    config[section] |= {"_target_": "os.system", "command": f"touch {mark}"}
    return config


NEMO_FILES: dict[str, tuple[Callable[[dict, Path], dict], str]] = {
    "pickle": (lambda c, mark: {WEIGHTS: saved({"a": Calls(os.mkdir, str(mark))})}, "which is code and not data"),
    "traversal": (lambda c, mark: {f"../{mark.name}": b"x"}, "leads out of the archive"),
    "absolute": (lambda c, mark: {str(mark): b"x"}, "leads out of the archive"),
    "symlink": (lambda c, mark: {"x": special("x", tarfile.SYMTYPE)}, "a symbolic link"),
    "weights that are a link": (lambda c, mark: {WEIGHTS: special(WEIGHTS, tarfile.SYMTYPE)}, "a symbolic link"),
    "hard link": (lambda c, mark: {"x": special("x", tarfile.LNKTYPE)}, "a hard link"),
    "device": (lambda c, mark: {"x": special("x", tarfile.CHRTYPE)}, "a device"),
    "pipe": (lambda c, mark: {"x": special("x", tarfile.FIFOTYPE)}, "a pipe"),
    "yaml tag": (lambda c, mark: {CONFIG: f"a: !!python/object/apply:os.mkdir [{mark}]".encode()}, "has a tag"),
    "yaml bomb": (lambda c, mark: {CONFIG: b"a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]"}, "has an anchor"),
    "environment": (lambda c, mark: {CONFIG: b"a: ${oc.env:HOME}"}, "asks for more than keys"),
    "target of a layer": (lambda c, mark: {CONFIG: dump(evil_target(c, mark, "encoder"))}, NO_TARGET),
    "target of the loss": (lambda c, mark: {CONFIG: dump(evil_target(c, mark, "loss"))}, NO_TARGET),
    "class of the model": (lambda c, mark: {CONFIG: dump(c | {"target": "os.system"})}, "os.system"),
}


def dump(config: dict) -> bytes:
    return OmegaConf.to_yaml(DictConfig(config)).encode()


@pytest.mark.parametrize("kind", NEMO_FILES)
def test_a_malicious_nemo_file_is_refused_with_a_reason(kind, tmp_path, config, mark):
    make, said = NEMO_FILES[kind]
    usual = {CONFIG: dump(config), WEIGHTS: saved({"a": torch.ones(1)})}
    path = write(tmp_path / "x.nemo", usual | make(config, mark))
    with pytest.raises(ValueError, match=said) as raised:
        Model.restore_from(path)
    assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == ["x.nemo"] and not mark.exists() and not (tmp_path.parent / mark.name).exists()


CHECKPOINTS: dict[str, tuple[Callable[[dict, Path], object], str]] = {
    "at the top": (lambda c, mark: Calls(os.mkdir, str(mark)), "which is code and not data"),
    "in hyper_parameters": (
        lambda c, mark: {"hyper_parameters": {"cfg": c, "x": [Calls(os.mkdir, str(mark))]}},
        "code",
    ),
    "in the weights": (lambda c, mark: {"state_dict": {"a": Calls(os.mkdir, str(mark))}}, "which is code and not data"),
    "environment": (lambda c, mark: {"hyper_parameters": {"cfg": {"a": "${oc.env:HOME}"}}}, "asks for more than keys"),
    "environment in omegaconf": (
        lambda c, mark: {"hyper_parameters": OmegaConf.create({"cfg": {"a": "${oc.env:HOME}"}})},
        "asks for more than keys",
    ),
    "target of a layer": (lambda c, mark: {"hyper_parameters": {"cfg": evil_target(c, mark, "encoder")}}, NO_TARGET),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_malicious_checkpoint_is_refused_with_a_reason(kind, tmp_path, config, mark):
    make, said = CHECKPOINTS[kind]
    content = make(config, mark)
    weights = {"state_dict": {"a": torch.ones(1)}}
    torch.save(weights | content if isinstance(content, dict) else content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=said) as raised:
        Model.load_from_checkpoint(tmp_path / "x.ckpt")
    assert "\n" not in str(raised.value) and not mark.exists()


@pytest.mark.parametrize("name", ["x.nemo", "x.ckpt"])
def test_nothing_malicious_gets_in_as_initial_weights(name, tmp_path, small_config, mark):
    evil = saved({"state_dict": {"a": Calls(os.mkdir, str(mark))}})
    path = tmp_path / name
    path.write_bytes(evil)
    if name == "x.nemo":
        write(path, {CONFIG: dump(OmegaConf.to_container(small_config())), WEIGHTS: evil})
    key = {"x.nemo": "init_from_nemo_model", "x.ckpt": "init_from_ptl_ckpt"}[name]
    with pytest.raises(ValueError, match=r"x\.(nemo|ckpt).* which is code and not data"):
        Model(small_config()).maybe_init_from_pretrained_checkpoint(OmegaConf.create({key: str(path)}))
    assert not mark.exists()
