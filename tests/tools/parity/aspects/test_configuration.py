"""Every option is compared: a changed default, one too many or too few, and one that is forgotten each fail by name.

NeMo's side is our own unchanged one without our own options; tests/parity/test_configuration_against_nemo.py has NeMo.
"""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from core.optim.lr_scheduler import SCHEDULERS, NoamAnnealing
from core.optim.optimizers import OPTIMIZERS
from core.targets import TARGETS
from losses.ssl_losses.mlm import MultiMLMLoss
from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules import MultiSoftmaxDecoder, RandomBlockMasking, RandomProjectionVectorQuantizer
from parts.submodules.conformer_block import ConformerBlock
from parts.submodules.convolution import NORM
from tools.parity.aspects import configuration
from tools.parity.aspects.configuration import NAME
from tools.parity.cases import CASES, NEMO, encoder_case, model_case
from tools.parity.records import Job, Measured, Record
from tools.parity.rows import FAILED, KNOWN, PASSED, Row
from tools.parity.side import Side

Patch = pytest.MonkeyPatch
DROPOUT = {"encoder.dropout": 0.1, "encoder.dropout_pre_encoder": 0.2, "encoder.dropout_att": 0.15}
OWN = {"model.preprocessor.max_duration", "model.masking.detach", "model.masking.min_masks"}
OWN |= {"model.encoder.conv_dual_mode"}


@pytest.fixture(scope="module")
def job() -> Job:
    config = model_case("EncDecDenoiseMaskedTokenPredModel", **DROPOUT)
    noise = {"_target_": f"{NEMO}modules.ssl_modules.MultiSpeakerNoiseAugmentation", "prob": 0.5}
    data = {"train_ds": {"manifest_filepath": "missing.json", "batch_augmentor": noise}}
    return Job("small", replace(config, config=config.config | data), (NAME,))


def measured(job: Job) -> Record:
    return Record(job, {"side": "ours"}, {NAME: configuration.measure(Side("ours", job, Path()))})


def as_nemo(ours: Record) -> Record:
    """NeMo's record, if NeMo were as we are, without our own options."""
    facts = ours.measured[NAME].facts
    own = {tuple(key.split(".")) for key in facts["neutral"]}
    arguments = {
        section: {name: option for name, option in options.items() if (section, name) not in own}
        for section, options in facts["arguments"].items()
    }
    facts = facts | {"arguments": arguments}
    return Record(ours.job, {"side": "nemo", "nemo_version": "3.0.0"}, {NAME: Measured(facts=facts)})


@pytest.fixture(scope="module")
def nemo(job) -> Record:
    return as_nemo(measured(job))


def rows(job: Job, nemo: Record) -> dict[str, Row]:
    return {row.what: row for row in configuration.compare(measured(job), nemo)}


def failed(job: Job, nemo: Record) -> dict[str, Row]:
    return {what: row for what, row in rows(job, nemo).items() if row.status == FAILED}


def test_what_is_the_same_passes_and_our_own_options_are_known(job, nemo):
    found = rows(job, nemo)
    assert {what for what, row in found.items() if row.status == KNOWN} == OWN
    assert all(row.status in (PASSED, KNOWN) for row in found.values())
    assert {row.level for row in found.values()} == {"configuration"}


def test_sections_that_no_constructor_of_a_model_builds_are_compared_too(job, nemo):
    found = rows(job, nemo)
    assert found["model.train_ds.batch_augmentor.prob"].detail == "0.5"
    assert found["model.train_ds.batch_augmentor.max_num_speakers"].detail == "4"
    assert found["model.optim.betas"].detail == "[0.9, 0.98]"
    assert found["model.optim.sched.warmup_steps"].detail == "3"
    assert found["model.squeeze_single"].detail == "False"


def with_default(patch: Patch, cls: type, **defaults) -> None:
    """Other defaults for arguments of a constructor."""
    constructor = cls.__init__
    names = constructor.__code__.co_varnames[: constructor.__code__.co_argcount][-len(constructor.__defaults__) :]
    old = dict(zip(names, constructor.__defaults__))
    patch.setattr(constructor, "__defaults__", tuple((old | defaults).values()))


def test_a_changed_default_fails_by_name(job, nemo, monkeypatch):
    with_default(monkeypatch, ConformerEncoder, xscaling=False)
    found = failed(job, nemo)
    assert set(found) == {"model.encoder.xscaling"}
    assert found["model.encoder.xscaling"].detail == "False by default instead of True by default in NeMo 3.0.0"


def test_a_changed_default_of_an_optimizer_or_a_schedule_fails_by_name(job, nemo, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "adamw", type("AdamW", (torch.optim.AdamW,), {"__init__": adamw_of_other_eps}))
    monkeypatch.setitem(SCHEDULERS, "NoamAnnealing", noam_of_other_warmup())
    assert set(failed(job, nemo)) == {
        "model.optim.eps", "model.optim.sched.warmup_ratio", "built: optim.param_groups.*.eps"
    }  # fmt: skip


def adamw_of_other_eps(self, params, *, eps=1e-6, **kwargs):
    torch.optim.AdamW.__init__(self, params, eps=eps, **kwargs)


def noam_of_other_warmup() -> type:
    def construct(self, optimizer, *, warmup_ratio=0.5, **kwargs):
        before(self, optimizer, **kwargs)

    before = NoamAnnealing.__init__
    return type("NoamAnnealing", (NoamAnnealing,), {"__init__": construct})


def test_another_class_under_the_same_name_fails(job, nemo, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "adamw", torch.optim.NAdam)
    assert failed(job, nemo)["model.optim._target_"].detail == "'NAdam' instead of 'AdamW' in NeMo 3.0.0"


@pytest.mark.parametrize(("option", "value"), [("min_masks", 1), ("detach", False)])
def test_an_own_option_off_nemos_way_fails_unless_it_is_asked_for(option, value, job, nemo, monkeypatch):
    asked = replace(job, own_options={f"masking.{option}": value})
    assert rows(asked, nemo)[f"model.masking.{option}"].status == KNOWN
    with_default(monkeypatch, RandomBlockMasking, **{option: value})
    found = failed(job, nemo)
    assert set(found) == {f"model.masking.{option}"}
    assert "would be NeMo's way" in found[f"model.masking.{option}"].reason


def test_an_option_too_many_fails(job, nemo, monkeypatch):
    before = MultiSoftmaxDecoder.__init__

    def construct(self, feat_in, num_classes, num_decoders=1, use_bias=False, squeeze_single=False,
                  init_mode="xavier_uniform", temperature=1.0):  # fmt: skip
        before(self, feat_in, num_classes, num_decoders, init_mode, use_bias, squeeze_single)

    monkeypatch.setattr(MultiSoftmaxDecoder, "__init__", construct)
    found = failed(job, nemo)
    assert set(found) == {"model.decoder.temperature"}
    assert "NeMo 3.0.0 has no such option" in found["model.decoder.temperature"].detail


def test_an_option_that_is_missing_here_fails(job, nemo, monkeypatch):
    before = RandomProjectionVectorQuantizer.__init__

    def construct(self, feat_in, code_dim, num_classes, num_books, dist_fn="cosine", freeze=True,
                  squeeze_single=False, combine_time_steps=1):  # fmt: skip
        before(self, feat_in, code_dim, num_classes, num_books, dist_fn, False, freeze, squeeze_single,
               combine_time_steps)  # fmt: skip

    monkeypatch.setattr(RandomProjectionVectorQuantizer, "__init__", construct)
    found = failed(job, nemo)
    assert set(found) == {"model.quantizer.time_ahead"}
    assert found["model.quantizer.time_ahead"].detail == "NeMo 3.0.0: False, no such option here"


def test_what_can_not_be_built_fails_with_its_reason_and_the_option(job, nemo, monkeypatch):
    def construct(self, combine_time_steps=1, num_decoders=1, squeeze_single=False): ...

    monkeypatch.setattr(MultiMLMLoss, "__init__", construct)
    found = failed(job, nemo)
    assert {"model.loss.mask_threshold", "ours raised"} <= set(found)
    assert "model.loss.mask_threshold is not an option" in found["ours raised"].detail


def test_a_class_that_configs_may_not_name_here_fails(job, nemo, monkeypatch):
    monkeypatch.delitem(TARGETS, f"{NEMO}modules.MultiSoftmaxDecoder")
    assert {"model.decoder", "ours raised"} <= set(failed(job, nemo))


def test_an_option_that_is_taken_and_forgotten_fails(job, nemo, monkeypatch):
    before = RandomBlockMasking.__init__

    @functools.wraps(before)
    def construct(self, *args, **kwargs):
        before(self, *args, **kwargs)
        self.block_size = 48

    monkeypatch.setattr(RandomBlockMasking, "__init__", construct)
    found = failed(job, nemo)
    assert set(found) == {"model.masking.block_size"}
    assert "48 in the built model instead of 40" in found["model.masking.block_size"].detail


def test_a_dropout_that_is_forgotten_fails_at_its_place(job, nemo, monkeypatch):
    before = ConformerBlock.__init__

    @functools.wraps(before)
    def construct(self, *args, **kwargs):
        before(self, *args, **kwargs)
        self.dropout.p = 0.0

    monkeypatch.setattr(ConformerBlock, "__init__", construct)
    found = failed(job, nemo)
    assert set(found) == {"built: encoder.layers.*.dropout.p"}
    row = found["built: encoder.layers.*.dropout.p"]
    assert (row.detail, row.module) == ("0.0 instead of 0.1", "encoder.layers.0.dropout")


def test_a_batch_norm_of_another_momentum_fails_at_its_place(job, nemo, monkeypatch):
    monkeypatch.setitem(NORM, "batch_norm", functools.partial(torch.nn.BatchNorm1d, momentum=0.01))
    assert set(failed(job, nemo)) == {"built: encoder.layers.*.conv.batch_norm.momentum"}


def changed(nemo: Record, section: str, **options) -> Record:
    """NeMo's record with other values of options; None: without the option."""
    facts = nemo.measured[NAME].facts
    old = facts["arguments"][section]
    new = old | {name: {"value": value, "given": False} for name, value in options.items()}
    new = {name: option for name, option in new.items() if options.get(name, ...) is not None}
    arguments = facts["arguments"] | {section: new}
    return replace(nemo, measured={NAME: Measured(facts=facts | {"arguments": arguments})})


def test_a_difference_on_purpose_is_known_at_exactly_these_values(job, nemo):
    assert rows(job, changed(nemo, "masking", max_mask_ratio=0.8))["model.masking.max_mask_ratio"].status == KNOWN
    assert set(failed(job, changed(nemo, "masking", max_mask_ratio=0.7))) == {"model.masking.max_mask_ratio"}


def test_an_option_that_came_with_nemo_3_is_known_against_nemo_2_only(job, nemo):
    older = changed(nemo, "encoder", att_chunk_context_size=None, conv_context_style=None)
    new = {"model.encoder.att_chunk_context_size", "model.encoder.conv_context_style"}
    assert set(failed(job, older)) == new
    found = rows(job, replace(older, origin={"nemo_version": "2.6.0"}))
    assert {found[what].status for what in new} == {KNOWN}
    assert all("NeMo 2.6.0 has no such option" in found[what].detail for what in new)


def test_a_schedule_that_nemo_leaves_out_is_known_and_one_that_we_leave_out_fails(job, nemo):
    facts = nemo.measured[NAME].facts
    arguments = {section: options for section, options in facts["arguments"].items() if section != "optim.sched"}
    without = replace(nemo, measured={NAME: Measured(facts=facts | {"arguments": arguments})})
    assert rows(job, without)["model.optim.sched"].status == KNOWN
    config = OmegaConf.to_container(OmegaConf.create(job.case.config))
    del config["optim"]["sched"]
    assert set(failed(replace(job, case=replace(job.case, config=config)), nemo)) == {"model.optim.sched"}


@pytest.mark.parametrize("change", [{"self_attention_model": "rel_pos_local_attn", "att_context_size": [2, 2]}, {
    "self_attention_model": "abs_pos"}])  # fmt: skip
def test_where_nemo_takes_another_dropout_is_known(change):
    dropout = {"dropout": 0.1, "dropout_pre_encoder": 0.2, "dropout_emb": 0.3}
    job = Job("encoder", encoder_case(**dropout, **change), (NAME,))
    ours = measured(job)
    layers = dict(ours.measured[NAME].facts["layers"])
    if "att_context_size" in change:
        what, layers["pos_enc.dropout.p"] = "built: pos_enc.dropout.p", 0.1
    else:
        what = "built: pos_enc.dropout_emb.p"
        del layers["pos_enc.dropout_emb.p"]
    nemo = as_nemo(ours)
    known = replace(nemo, measured={NAME: Measured(facts=nemo.measured[NAME].facts | {"layers": layers})})
    assert rows(job, known)[what].status == KNOWN
    layers |= {"pos_enc.dropout.p": 0.5, "pos_enc.dropout_emb.p": 0.5}
    assert what in failed(job, known)


@pytest.mark.parametrize("name", ["encoder_causal_striding", "encoder_fused_attention_instance_norm",
                                  "model_post_conv_1_book"])  # fmt: skip
def test_every_kind_of_case_is_measured(name):
    job = Job(name, CASES[name], (NAME,))
    assert failed(job, as_nemo(measured(job))) == {}
