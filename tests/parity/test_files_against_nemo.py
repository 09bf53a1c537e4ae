"""Checkpoint files between a real NeMo and this project: `.nemo` and Lightning's, each opened by the other side.

Runs where NeMo can be imported, 3.0.0 or 2.6.0 (`pytest -m nemo tests/parity/test_files_against_nemo.py` there).
"""

import importlib.util
import logging
from pathlib import Path

import pytest
import torch

from core.connectors import save_restore
from tools.parity.aspects import files
from tools.parity.aspects.file_formats import FORMATS
from tools.parity.cases import CASES, DENOISE, Case, make_audio, model_case
from tools.parity.compare import Comparison, compare_with
from tools.parity.nemo_side import complete, measure
from tools.parity.records import Job
from tools.parity.rows import FAILED, KNOWN, NOT_RUN
from tools.parity.side import Side

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo 3.0.0 to be installed"),
]
OTHERS = {
    "denoising_post_conv": {"mask_position": "post_conv", "quantizer.combine_time_steps": 1},
    "local_attention": {"encoder.self_attention_model": "rel_pos_local_attn", "encoder.att_context_size": [8, 8]},
    "no_bias": {"encoder.use_bias": False, "encoder.xscaling": False},
    "layer_norm": {"encoder.conv_norm_type": "layer_norm"},
    "trained_mask": {"masking.freeze": False},
    "sgd": {"optim": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
}
MODELS = {name: case for name, case in CASES.items() if case.is_model}
MODELS |= {name: model_case(DENOISE, **{"preprocessor.features": 20} | changes) for name, changes in OTHERS.items()}


@pytest.fixture(autouse=True)
def quiet_nemo():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def compared(case: Case, folder: Path, **options) -> Comparison:
    """As the tool does it, in one process."""
    job = complete(Job("a model", case, (files.NAME,), make_audio(), **options), folder)
    files.prepare(Side("ours", job, folder))
    return compare_with(measure(Side("nemo", job, folder)), folder)


@pytest.mark.parametrize("name", MODELS)
def test_each_side_opens_what_the_other_wrote(name, tmp_path):
    comparison = compared(MODELS[name], tmp_path)
    assert comparison.failed == []
    assert comparison.passed and not [row for row in comparison.rows if row.status == NOT_RUN]


@pytest.mark.parametrize(("option", "value"), [("masking.min_masks", 2), ("masking.max_mask_ratio", 0.8)])
def test_options_of_our_side_alone_are_known(option, value, tmp_path):
    """Of which one is NeMo's, too, where the other side has its default."""
    comparison = compared(CASES["model_pre_conv_1_book"], tmp_path, own_options={option: value})
    assert comparison.failed == []
    assert [row.what for row in comparison.rows if row.status == KNOWN] == [f"options of our side: {option}={value}"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_users_own_file_is_opened_by_both(suffix, tmp_path):
    case = CASES["model_pre_conv_1_book"]
    own = complete(Job("own", case, (), make_audio()), tmp_path)
    side = Side("nemo", own, tmp_path)
    FORMATS[suffix].write(side.build(), tmp_path / f"own{suffix}")
    comparison = compared(case, tmp_path, checkpoint=str(tmp_path / f"own{suffix}"))
    what = f"own{suffix}, opened by both"
    assert comparison.failed == []
    assert {f"{what}: weights", f"{what}: log-probabilities"} <= {row.what for row in comparison.rows}


def test_nemo_says_what_is_wrong_with_what_we_wrote(monkeypatch, tmp_path):
    write = save_restore.write_nemo
    name = "encoder.layers.0.norm_out.weight"

    def with_nan(path, config, state):
        write(path, config, state | {name: torch.full_like(state[name], float("nan"))})

    monkeypatch.setattr(save_restore, "write_nemo", with_nan)
    found = {row.what: row for row in compared(CASES["model_pre_conv_1_book"], tmp_path).failed}
    assert list(found) == [
        "our .nemo: weights in it",
        "our .nemo, opened by NeMo: weights",
        "our .nemo, opened by NeMo: log-probabilities",
    ]
    assert found["our .nemo, opened by NeMo: weights"].detail.startswith(name)


def test_a_file_that_nemo_cannot_open_fails_with_its_words(monkeypatch, tmp_path):
    to_nemo = save_restore.to_nemo

    def unknown_class(cfg, target):
        config, told = to_nemo(cfg, target)
        config.encoder._target_ = "nemo.collections.asr.modules.NoSuchEncoder"
        return config, told

    monkeypatch.setattr(save_restore, "to_nemo", unknown_class)
    found = {row.what: row for row in compared(CASES["model_pre_conv_1_book"], tmp_path).failed}
    assert found["our .nemo, opened by NeMo: opened"].status == FAILED
    assert "NoSuchEncoder" in found["our .nemo: configuration in it"].detail
