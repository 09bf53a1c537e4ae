"""Options and parameters of the real NeMo against ours, both built in one process.

Runs where NeMo can be imported (`pytest -m nemo tests/parity/test_configuration_against_nemo.py` in its environment).
"""

import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from losses.ssl_losses.mlm import MultiMLMLoss
from modules.conformer_encoder import ConformerEncoder
from parts.submodules.positions import AbsolutePositions
from tools.parity.aspects import configuration, parameters
from tools.parity.aspects.shipped_config import NEMOS
from tools.parity.cases import CASES, DENOISE, Case
from tools.parity.records import Job, Measured, Record
from tools.parity.rows import FAILED, KNOWN, Row
from tools.parity.side import Side, origin

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo to be installed"),
]

ASPECTS = {"configuration": configuration, "parameters": parameters}
SMALL = {
    "encoder.n_layers": 2, "encoder.d_model": 16, "encoder.n_heads": 2, "encoder.subsampling_conv_channels": 8,
    "num_classes": 32, "train_ds.manifest_filepath": "no such file", "validation_ds.manifest_filepath": "nor this",
    "optim.sched.max_steps": 100,
}  # fmt: skip
OURS = {"encoder.conv_dual_mode", "preprocessor.max_duration", "masking.min_masks", "masking.detach"}
LOCAL = {"encoder.self_attention_model": "rel_pos_local_attn", "encoder.att_context_size": [3, 3]}
SCHEDULES = {
    "CosineAnnealing": {"warmup_ratio": 0.1, "min_lr": 1e-6},
    "WarmupPolicy": {"warmup_steps": 3},
    "WarmupHoldPolicy": {"warmup_steps": 3, "hold_steps": 2},
    "SquareAnnealing": {"warmup_steps": 3},
    "SquareRootAnnealing": {"warmup_steps": 3},
    "NoamHoldAnnealing": {"warmup_steps": 3, "decay_rate": 0.7},
    "WarmupHoldAnnealOneMinusSquareRoot": {"warmup_steps": 3},
    "WarmupHoldAnnealLinear": {"warmup_steps": 3},
    "WarmupAnnealing": {"warmup_steps": 3},
    "InverseSquareRootAnnealing": {"warmup_steps": 3},
    "T5InverseSquareRootAnnealing": {"constant_steps": 3},
    "PolynomialDecayAnnealing": {"warmup_steps": 3, "power": 2.0},
    "PolynomialHoldDecayAnnealing": {"warmup_steps": 3, "hold_steps": 2},
}
OPTIMIZERS = ("sgd", "adam", "adamw", "adadelta", "adamax", "adagrad", "rmsprop", "rprop", "novograd", "adan")


@pytest.fixture(scope="module", autouse=True)
def quiet_nemo() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def default_case(**changes) -> Case:
    """NeMo's own yaml, narrower; its data sections name batch augmentors."""
    config = OmegaConf.create(json.loads(NEMOS.read_text(encoding="utf-8"))["config"])
    for key, value in (SMALL | changes).items():
        OmegaConf.update(config.model, key, value, merge=False, force_add=True)
    return Case(f"models.ssl_models.{DENOISE}", OmegaConf.to_container(config, resolve=True)["model"])


def record(side: str, name: str, case: Case) -> Record:
    job = Job(name, case, tuple(ASPECTS))
    measured = {aspect: ASPECTS[aspect].measure(Side(side, job, Path())) for aspect in ASPECTS}
    through_json = {key: Measured(m.tensors, json.loads(json.dumps(m.facts))) for key, m in measured.items()}
    return Record(job, origin(side), through_json)


def rows(case: Case) -> list[Row]:
    ours, nemo = (record(side, "any", case) for side in ("ours", "nemo"))
    return [row for aspect in ASPECTS.values() for row in aspect.compare(ours, nemo)]


def failed(case: Case) -> set[str]:
    return {row.what for row in rows(case) if row.status == FAILED}


def known(case: Case) -> set[str]:
    return {row.what for row in rows(case) if row.status == KNOWN}


@pytest.mark.parametrize("name", CASES)
def test_cases_differ_in_nothing(name):
    assert failed(CASES[name]) == set()


CONFIGS = {
    "default": {},
    "books": {"num_books": 4},
    "post_conv": {"mask_position": "post_conv", "quantizer.combine_time_steps": 1},
    "local": LOCAL | {"encoder.dropout_pre_encoder": 0.3},
    "abs_pos": {"encoder.self_attention_model": "abs_pos", "encoder.dropout_emb": 0.3},
    "fused": {"encoder.use_pytorch_sdpa": True},
    "trained_mask": {"masking.freeze": False, "quantizer.freeze": False},
    **{f"optimizer_{name}": {"optim": {"name": name, "lr": 0.1}} for name in OPTIMIZERS},
    **{
        f"schedule_{name}": {"optim": {"name": "adamw", "lr": 0.1, "sched": {"name": name, "max_steps": 100} | options}}
        for name, options in SCHEDULES.items()
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_differ_in_nothing(name):
    assert failed(default_case(**CONFIGS[name])) == set()


def test_what_differs_on_purpose_is_this():
    version = origin("nemo")["nemo_version"]
    new = {"encoder.att_chunk_context_size", "encoder.conv_context_style"} if version.startswith("2.") else set()
    assert known(default_case()) == {f"model.{key}" for key in OURS | new | {"masking.max_mask_ratio"}}
    assert "built: encoder.pos_enc.dropout.p" in known(default_case(**CONFIGS["local"]))
    assert "built: encoder.pos_enc.dropout_emb.p" in known(default_case(**CONFIGS["abs_pos"]))


def test_post_conv_as_written_for_pre_conv_differs_in_what_nemo_stacks():
    found = {row.what: row for row in rows(default_case(mask_position="post_conv"))}
    assert found["model.quantizer.combine_time_steps"].status == KNOWN
    assert found["quantizer.proj.weight"].status == FAILED


def test_a_changed_default_and_a_forgotten_option_fail_by_name(monkeypatch):
    before = MultiMLMLoss.__init__

    def construct(self, combine_time_steps=1, mask_threshold=0.5, num_decoders=1, squeeze_single=True):
        before(self, combine_time_steps, mask_threshold, num_decoders, squeeze_single)

    monkeypatch.setattr(MultiMLMLoss, "__init__", construct)
    positions = AbsolutePositions.__init__

    def without_dropout(self, options):
        positions(self, options)
        self.dropout.p = 0.0

    monkeypatch.setattr(AbsolutePositions, "__init__", without_dropout)
    case = default_case()
    del case.config["loss"]["squeeze_single"]
    assert failed(case) == {"model.loss.squeeze_single", "built: encoder.pos_enc.dropout.p"}


def test_a_parameter_of_another_name_or_type_fails_by_name(monkeypatch):
    before = ConformerEncoder.__init__

    def construct(self, *args, **kwargs):
        before(self, *args, **kwargs)
        self.layers[0].norm_out.weight = torch.nn.Parameter(self.layers[0].norm_out.weight.double())
        self.layers[1].norm_end = self.layers[1]._modules.pop("norm_out")

    construct.__wrapped__ = before
    monkeypatch.setattr(ConformerEncoder, "__init__", construct)
    assert failed(CASES["encoder_stochastic_depth"]) >= {
        "layers.0.norm_out.weight", "layers.1.norm_out.weight", "layers.1.norm_end.weight",
    }  # fmt: skip
