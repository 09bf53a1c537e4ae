"""What a user has becomes a job: any config with overrides, any checkpoint, any audio, or one line of what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tools.parity.cases import LEVELS, OURS, make_audio
from tools.parity.jobs import LIVE_CASES
from tools.parity.own_config import DEFAULT
from tools.parity.own_job import ASPECTS, own_job
from tools.parity.records import Record, load, save
from tools.parity.side import Side

SMALL = [
    "model.encoder.d_model=16", "model.encoder.n_heads=2", "model.encoder.n_layers=1", "model.num_classes=8",
    "model.encoder.subsampling_conv_channels=4",
]  # fmt: skip
SMALL_MODEL = {
    "encoder": {"d_model": 16, "n_heads": 2, "n_layers": 1, "subsampling_conv_channels": 4}, "num_classes": 8,
}  # fmt: skip


@pytest.fixture
def nemos_config(golden):
    """NeMo's own file, shrunk."""
    config = json.loads((golden / "nemo_config" / "nest_fast-conformer.json").read_text(encoding="utf-8"))
    return OmegaConf.merge(OmegaConf.create(config), {"model": SMALL_MODEL})


@pytest.fixture
def wav(tmp_path):
    def write(name: str, seconds: float, sample_rate: int = 8000, channels: int = 1):
        samples = 0.1 * np.random.default_rng(1).standard_normal((round(seconds * sample_rate), channels))
        soundfile.write(tmp_path / name, samples, sample_rate)
        return tmp_path / name

    return write


# configs


def test_our_default_config_is_a_job_that_our_side_builds(tmp_path):
    job = own_job(overrides=SMALL)
    assert job.name == "nest_fast-conformer"
    assert job.case.config["encoder"]["d_model"] == job.case.config["optim"]["sched"]["d_model"] == 16
    assert job.case.config["optim"]["sched"]["max_steps"] == 500_000  # the trainer's
    assert job.case.config["train_ds"] is None
    assert Side("ours", job, tmp_path).fresh().encoder.d_model == 16


def test_what_is_drawn_in_training_is_off_in_models_and_as_the_user_has_it_in_the_config(tmp_path):
    job = own_job(overrides=[*SMALL, "model.encoder.stochastic_depth_drop_prob=0.2"])
    assert set(job.neutralised) == {
        "encoder.dropout", "encoder.dropout_pre_encoder", "encoder.dropout_att", "encoder.stochastic_depth_drop_prob",
        "preprocessor.dither",
    }  # fmt: skip
    assert job.notes[-1].startswith("off on both sides, ")
    assert "encoder.dropout_att" in job.notes[-1]
    side = Side("ours", job, tmp_path)
    assert (side.case.config["encoder"]["dropout"], side.case.config["preprocessor"]["dither"]) == (0.1, 1e-5)
    assert {p.p for p in side.fresh().modules() if isinstance(p, torch.nn.Dropout)} <= {0.0}


def test_what_a_config_leaves_out_is_off_too():
    job = own_job(overrides=[*SMALL, "~model.encoder.dropout_emb", "~model.preprocessor.dither"])
    assert {"encoder.dropout_emb", "preprocessor.dither"} <= set(job.neutralised)  # 0.1 and 1e-5 by default


def test_nemos_config_is_read_whole_and_as_a_nemo_file_holds_it(nemos_config, tmp_path):
    (tmp_path / "whole.yaml").write_text(OmegaConf.to_yaml(nemos_config))
    bare = OmegaConf.create(OmegaConf.to_container(nemos_config))
    (tmp_path / "bare.yaml").write_text(OmegaConf.to_yaml(bare.model).replace("${model.", "${"))
    (tmp_path / "bare_but_rooted.yaml").write_text(OmegaConf.to_yaml(bare.model))
    whole, *others = (own_job(tmp_path / f"{name}.yaml") for name in ("whole", "bare", "bare_but_rooted"))
    for other in others:
        assert "the config leaves open how long the schedule is: 1000 steps are assumed" in other.notes
        other.case.config["optim"]["sched"]["max_steps"] = 500_000
        assert other.case == whole.case


def test_a_post_conv_config_is_the_one_that_nemo_has_to_be_given():
    config = own_job(overrides=[*SMALL, "model.mask_position=post_conv"]).case.config
    assert (config["quantizer"]["combine_time_steps"], config["loss"]["combine_time_steps"]) == (1, 8)


def test_an_option_of_ours_is_told_and_reaches_our_model_only(tmp_path):
    job = own_job(overrides=[*SMALL, "model.masking.min_masks=2"])
    assert job.own_options == {"masking.min_masks": 2}
    assert "min_masks" not in job.case.config["masking"]
    assert "model.masking.min_masks=2 is an option of this project's own: NeMo goes without" in job.notes
    assert Side("ours", job, tmp_path).fresh().mask_processor.min_masks == 2


LINE = '{"audio_filepath": "a.wav", "duration": 2.0}\n'


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "m.json"
    path.write_text(LINE, encoding="utf-8")
    return path


def test_all_that_applies_is_compared(manifest):
    assert own_job(overrides=SMALL).aspects == (*ASPECTS, "files")
    assert own_job(overrides=SMALL, until="loss", manifest=manifest).aspects == (*ASPECTS, "data")


def test_data_is_kept_where_a_manifest_is_given_and_opened_by_no_model(manifest, tmp_path):
    job = own_job(overrides=SMALL, manifest=manifest)
    assert job.manifest == str(manifest.resolve())
    assert job.case.config["train_ds"]["max_duration"] == 60.0
    assert Side("ours", job, tmp_path).computed_case.config["train_ds"] is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.encodr.d_model=3"], "model.encodr is not in the config; did you mean 'encoder'"),
        (["model.encoder.n_heads=7"], "encoder.n_heads=7 does not divide"),
        (["+model.encoder.dropuot=0.1"], "dropuot"),
        (["model.optim.name=adamww"], "did you mean 'adamw'"),
        (["model.optim.sched.name=NoamAnealing"], "did you mean 'NoamAnnealing'"),
        (["model_size=smal"], "did you mean 'small'"),
        (["model.encoder.d_model=${nowhere}"], "nowhere"),
        (["trainer.max_steps=${nowhere}"], "trainer.max_steps: .*nowhere"),
        (["init_from_nemo_model=a.nemo"], "give the file with --checkpoint"),
        (["model.restore_from=a.nemo"], "give the file with --checkpoint"),
        (["+model.target=nemo.collections.asr.models.EncDecCTCModel"], "EncDecCTCModel' is not a model of this"),
        (["model.mask_position=post_conv", "model.masking.detach=false"], "masking.detach=False .* own: "),
        (["model.spec_augment.freq_masks=2"], "freq_masks=2 has no effect"),
        (["hydra.run.dir=x"], "settings of Hydra's own"),
    ],
)
def test_a_wrong_config_is_refused_by_name(overrides, message):
    with pytest.raises(ValueError, match=message):
        own_job(overrides=SMALL + overrides)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nemo", "", "give it with --checkpoint"),
        ("a.yml", "model: {}", "must end in .yaml: rename it"),
        ("a.yaml", "a: [", "no yaml"),
        ("b.yaml", "modle: {}", "no `model` section; did you mean 'modle'"),
        ("c.yaml", "- a", "is no mapping"),
    ],
)
def test_what_is_no_config_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        own_job(tmp_path / name)


def test_a_config_without_optimizer_ends_before_the_steps():
    job = own_job(overrides=[*SMALL, "~model.optim"])
    assert job.until == "batch_norm"
    assert "the config has no optim section, so no optimizer steps are compared" in job.notes


@pytest.mark.parametrize(
    ("options", "message"), [({"until": "losss"}, "did you mean 'loss'"), ({"steps": 0}, "--steps 0")]
)
def test_wrong_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        own_job(overrides=SMALL, **options)


# weights


@pytest.fixture
def small_model(small_config):
    return EncDecDenoiseMaskedTokenPredModel(cfg=small_config())


def test_a_nemo_files_weights_and_config_are_the_jobs(small_model, tmp_path):
    small_model.save_to(tmp_path / "a.nemo")
    job = own_job(checkpoint=tmp_path / "a.nemo")
    assert (job.name, job.checkpoint) == ("a", str((tmp_path / "a.nemo").resolve()))
    assert not any(name.startswith("preprocessor.") for name in job.start)
    restored = Side("ours", job, tmp_path).build()
    for name, value in small_model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


def write_config(model: nn.Module, path: Path) -> None:
    path.write_text(yaml.safe_dump({"model": OmegaConf.to_container(model.cfg)}), encoding="utf-8")


def test_weights_of_half_precision_are_the_models_types(small_model, tmp_path):
    state = {k: v.half() if v.dtype == torch.float32 else v for k, v in small_model.state_dict().items()}
    torch.save(state, tmp_path / "half.ckpt")
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"model": OmegaConf.to_container(small_model.cfg)}), encoding="utf-8"
    )
    job = own_job(tmp_path / "c.yaml", ["model.train_ds=null"], tmp_path / "half.ckpt")
    assert {v.dtype for v in job.start.values() if v.is_floating_point()} == {torch.float32, torch.float64}


def test_weights_of_another_model_are_refused(small_model, tmp_path):
    torch.save(small_model.state_dict(), tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="holds no config: give the model's with --config"):
        own_job(checkpoint=tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match=r"holds other weights .* of another shape .*; leave out --config"):
        own_job(overrides=SMALL, config=DEFAULT, checkpoint=tmp_path / "bare.ckpt")
    state = {k: v for k, v in small_model.state_dict().items() if "layers.1." not in k}
    torch.save(state, tmp_path / "part.ckpt")
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"model": OmegaConf.to_container(small_model.cfg)}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"holds other weights .* missing, .*layers\.1\."):
        own_job(tmp_path / "c.yaml", ["model.train_ds=null"], tmp_path / "part.ckpt")


def test_weights_that_are_no_numbers_are_refused_by_name(small_model, tmp_path):
    small_model.state_dict()["encoder.layers.1.norm_out.weight"][2] = torch.nan
    small_model.save_to(tmp_path / "a.nemo")
    with pytest.raises(ValueError, match=r"holds NaN or infinity in encoder\.layers\.1\.norm_out\.weight"):
        own_job(checkpoint=tmp_path / "a.nemo")


# manifests


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no lines"),
        (b"fLaC\x00\xff\xfe", "no line that can be used"),
        (LINE.replace("2.0", "0.01").encode(), r"no utterance is left: 1 shorter than min_duration=1\.0"),
        (LINE.replace("a.wav", "caf\u00e9.wav").encode("latin-1"), "not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("option", ["manifest", "noise_manifest"])
def test_a_manifest_of_which_nothing_can_be_used_is_refused_before_nemo_is_asked(option, content, message, manifest):
    broken = manifest.with_name("broken.json")
    broken.write_bytes(content)
    if option == "noise_manifest" and "min_duration" in message:
        assert own_job(overrides=SMALL, manifest=manifest, noise_manifest=broken).noise_manifest
        return
    with pytest.raises(ValueError, match=message):
        own_job(overrides=SMALL, **{"manifest": manifest, option: broken})


@pytest.mark.parametrize("option", ["config", "checkpoint", "manifest", "noise_manifest"])
def test_a_file_that_is_not_there_is_told_with_its_option(option, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^--{option.replace('_', '-')} .*x.yaml doesn't exist"):
        own_job(**{option: tmp_path / "x.yaml"})


def test_a_word_that_changes_nothing_is_refused_with_how_to_write_it():
    with pytest.raises(ValueError, match="'foo' is no change to the configuration: give key=value"):
        own_job(overrides=["foo"])


# audio


def test_audio_of_any_rate_is_at_the_models_with_noise_and_unequal_lengths(wav):
    job = own_job(overrides=SMALL, audio=[wav("a.wav", 1.5, 8000, 2), wav("b.flac", 2.0, 44100)])
    assert job.inputs["lengths"].tolist() == [24000, 32000]
    assert job.inputs["clean"].dtype == torch.int16
    clean, noisy = (job.inputs[name].double() for name in ("clean", "noisy"))
    for row, length in enumerate([24000, 32000]):
        snr_db = 20 * torch.log10(clean[row].norm() / (noisy - clean)[row].norm()).item()
        assert snr_db == pytest.approx(10, abs=0.1)
        assert not clean[row, length:].any() and not noisy[row, length:].any()


def test_one_file_is_two_utterances_of_unequal_length(wav):
    job = own_job(overrides=SMALL, audio=[wav("a.wav", 2.0)])
    assert job.inputs["lengths"].tolist() == [32000, 23360]
    assert "so that lengths differ, 73% of a.wav is an utterance, too" in job.notes


def test_audio_is_cut_and_lengthened_and_that_is_said(wav):
    job = own_job(overrides=SMALL, audio=[wav("long.wav", 20.5), wav("short.wav", 0.3), wav("half.wav", 11.0)])
    assert job.inputs["lengths"].tolist() == [320_000, 16_000, 176_000]
    assert job.notes[-2:] == ("long.wav is cut to its first 20 s", "short.wav (0.30 s) is repeated to last 1 s")


def test_noise_may_be_a_file(wav):
    audio, noise = wav("a.wav", 2.0), wav("n.wav", 0.5)
    assert not torch.equal(
        own_job(overrides=SMALL, audio=[audio], noise=noise).inputs["noisy"],
        own_job(overrides=SMALL, audio=[audio]).inputs["noisy"],
    )


def test_audio_that_cant_be_used_is_told_by_name(wav, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    for name, reason in (("a.wav", "unreadable"), ("none.wav", "no such file"), ("silent.wav", "silent")):
        with pytest.raises(ValueError, match=f"{name} can't be used as audio .*{reason}"):
            own_job(overrides=SMALL, audio=[tmp_path / name])
    with pytest.raises(ValueError, match=r"^--noise .*silent\.wav .*; give another file, or none for synthetic noise"):
        own_job(overrides=SMALL, audio=[wav("b.wav", 1.0)], noise=tmp_path / "silent.wav")


def test_without_audio_the_tool_speaks_at_the_models_rate():
    job = own_job(overrides=[*SMALL, "model.sample_rate=8000"])
    assert job.inputs["lengths"].tolist() == [9360, 6800]
    assert torch.equal(make_audio(sample_rate=8000)["clean"], job.inputs["clean"])


# jobs as files, and the live cases


def test_a_job_is_the_same_after_it_was_a_file(tmp_path, wav):
    job = own_job(overrides=[*SMALL, "model.masking.min_masks=2"], audio=[wav("a.wav", 2.0)], until="loss")
    save(Record(job, {"side": "nemo"}, raised="why"), tmp_path / "job.safetensors")
    again = load(tmp_path / "job.safetensors")
    assert again.raised == "why"
    assert (again.job.neutralised, again.job.notes, again.job.until) == (job.neutralised, job.notes, "loss")
    assert again.job.own_options == job.own_options


@pytest.mark.parametrize("name", ["plain", "striding8_causal_post_conv", "local_global_token", "contexts"])
def test_a_live_case_is_a_model_that_we_build(name):
    job = LIVE_CASES[f"live_{name}"]()
    assert job.name == f"live_{name}"
    assert job.until == LEVELS[-1]
    assert job.case.class_of(OURS).__name__ in job.case.class_path
