import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.connectors.initial_weights import read_weights
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tools.average_checkpoints import main
from utils.checkpoint_files.checkpoint_file import save_checkpoint

SEEN = "encoder.layers.0.conv.batch_norm.num_batches_tracked"
TRAINED = "decoder.decoder_layers.0.weight"
STATISTICS = "encoder.layers.0.conv.batch_norm.running_mean"
QUANTIZER = "quantizer.codebooks"


@pytest.fixture(scope="module")
def model_of(small_config) -> Callable[..., tuple[DictConfig, dict[str, Tensor]]]:
    """Config and first weights of a small model. The same quantizer in each."""

    @cache
    def make(**config) -> tuple[DictConfig, dict[str, Tensor]]:
        torch.manual_seed(0)
        options = {"train_ds.manifest_filepath": "train.json", "encoder.n_layers": 1} | config
        model = EncDecDenoiseMaskedTokenPredModel(small_config(**options))
        return model.cfg, model.state_dict()

    return make


@pytest.fixture
def checkpoint(model_of, tmp_path) -> Callable[..., Path]:
    """`checkpoint("a.ckpt", 3)`: a run's checkpoint of step 3, each step with weights of its own, one quantizer."""

    def make(
        name: str, step: int, scores: dict[str, float] | None = None, change: dict | None = None, **config
    ) -> Path:
        cfg, start = model_of(**config)
        generator = torch.Generator().manual_seed(step)
        state = dict(start)
        for key, tensor in state.items():
            if key.startswith(("encoder", "decoder")) and tensor.is_floating_point():
                state[key] = torch.randn(tensor.shape, generator=generator)
        state[SEEN] = torch.tensor(step)
        state |= change or {}
        averages = {TRAINED: state[TRAINED] + 100}
        content = {
            "state_dict": state,
            "global_step": step,
            "loops": {},
            "callbacks": {"EMA": {"weights": averages}},
            "hyper_parameters": {"cfg": OmegaConf.to_container(cfg)},
        }
        if scores:
            best = min(scores, key=scores.get)
            paths = {str(tmp_path / file): torch.tensor(score) for file, score in scores.items()}
            content["callbacks"]["Checkpoints"] = {"best_k_models": paths, "best_model_path": str(tmp_path / best)}
        save_checkpoint(content, tmp_path / name)
        return tmp_path / name

    return make


def average(*arguments: object, output: str | Path) -> dict[str, Tensor]:
    main([*map(str, arguments), "--output", str(output)])
    return read_weights(output).state_dict


def state(path: Path) -> dict[str, Tensor]:
    return read_weights(path).state_dict


# the mean


@pytest.mark.parametrize("suffix", [".nemo", ".ckpt", ".safetensors"])
def test_what_was_trained_is_averaged_and_the_rest_stays(checkpoint, tmp_path, suffix):
    paths = [checkpoint(f"{step}.ckpt", step) for step in (1, 2, 3)]
    averaged = average(*paths, output=tmp_path / f"out{suffix}")
    states = [state(path) for path in paths]
    for name in (TRAINED, STATISTICS):
        mean = sum(each[name].double() for each in states) / 3
        assert torch.equal(averaged[name], mean.float())
    assert averaged[SEEN] == 3
    assert averaged[QUANTIZER].dtype == torch.float64 and torch.equal(averaged[QUANTIZER], states[0][QUANTIZER])
    assert averaged.keys() == states[0].keys()


def test_the_average_restores_as_a_model_with_its_config(checkpoint, tmp_path):
    paths = [checkpoint(f"{step}.ckpt", step) for step in (1, 2)]
    averaged = average(*paths, output=tmp_path / "out.nemo")
    model = EncDecDenoiseMaskedTokenPredModel.restore_from(tmp_path / "out.nemo", map_location="cpu")
    torch.testing.assert_close(dict(model.state_dict()), averaged, rtol=0, atol=0)
    assert model.cfg.encoder.d_model == 16


def test_what_is_the_same_in_all_files_stays_bit_for_bit(checkpoint, tmp_path):
    """A mean of three times 0.1 in float64 would be another number."""
    start = state(checkpoint("0.ckpt", 0))
    same = {name: torch.full_like(start[name], 0.1) for name in (QUANTIZER, TRAINED)}
    paths = [checkpoint(f"{step}.ckpt", step, change=same) for step in (1, 2, 3)]
    averaged = average(*paths, output=tmp_path / "out.nemo")
    assert all(torch.equal(averaged[name], tensor) for name, tensor in same.items())


def test_nemo_files_and_checkpoints_are_averaged_together(checkpoint, tmp_path):
    paths = [checkpoint(f"{step}.ckpt", step) for step in (1, 2)]
    EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(paths[1]).save_to(tmp_path / "2.nemo")
    expected = average(*paths, output=tmp_path / "expected.nemo")
    averaged = average(paths[0], tmp_path / "2.nemo", output=tmp_path / "out.nemo")
    torch.testing.assert_close(averaged, expected, rtol=0, atol=0)


def test_moving_averages_are_averaged_when_asked_for(checkpoint, tmp_path):
    paths = [checkpoint(f"{step}.ckpt", step) for step in (1, 2)]
    averaged = average(*paths, "--weights", "ema", output=tmp_path / "out.nemo")
    trained = average(*paths, output=tmp_path / "trained.nemo")
    torch.testing.assert_close(averaged[TRAINED], trained[TRAINED] + 100)
    assert torch.equal(averaged[STATISTICS], trained[STATISTICS])


# which files


def test_the_last_of_a_folder_are_those_of_the_most_steps(checkpoint, tmp_path):
    """The last is one of them once, and what isn't a run's checkpoint isn't one."""
    paths = [checkpoint(f"{step}.ckpt", step) for step in (1, 2, 3)]
    shutil.copy(paths[2], tmp_path / "3-last.ckpt")
    (tmp_path / "3-EMA.ckpt").write_bytes(b"NeMo's")
    expected = average(*paths[1:], output=tmp_path / "an average.ckpt")
    averaged = average(tmp_path, "--last", 2, output=tmp_path / "out.nemo")
    torch.testing.assert_close(averaged, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("scores", "chosen"), [((0.2, 0.3, 0.1), (1, 3)), ((0.1, 0.2, 0.3), (1, 2))])
def test_the_best_of_a_folder_are_those_of_its_monitor(checkpoint, tmp_path, scores, chosen):
    names = ["1.ckpt", "2.ckpt", "3.ckpt"]
    known = dict(zip(names, scores))
    for step, name in enumerate(names, start=1):
        checkpoint(name, step, scores={key: known[key] for key in names[:step]})
    shutil.copy(tmp_path / "3.ckpt", tmp_path / "0-last-v1.ckpt")  # the same weights, which the ranking names "3.ckpt"
    expected = average(*(tmp_path / f"{step}.ckpt" for step in chosen), output=tmp_path / "expected.nemo")
    averaged = average(tmp_path, "--best", 2, output=tmp_path / "out.nemo")
    torch.testing.assert_close(averaged, expected, rtol=0, atol=0)


def test_a_file_that_is_given_twice_counts_once(checkpoint, tmp_path, capsys):
    paths = [checkpoint(f"{step}.ckpt", step) for step in (1, 2)]
    shutil.copy(paths[0], tmp_path / "copy.ckpt")
    expected = average(*paths, output=tmp_path / "expected.nemo")
    averaged = average(paths[0], *paths, tmp_path / "copy.ckpt", output=tmp_path / "out.nemo")
    torch.testing.assert_close(averaged, expected, rtol=0, atol=0)
    assert f"copy.ckpt has the weights of {paths[0]}" in capsys.readouterr().out


# mistakes


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        ({QUANTIZER: torch.zeros(1, 32, 16, dtype=torch.float64)}, {}, r"quantizer\.codebooks differs"),
        ({}, {"encoder.n_heads": 4}, r"encoder\.n_heads=4, not 2"),
        ({}, {"encoder.n_layers": 2}, r"encoder\.n_layers=2, not 1"),
        ({}, {"preprocessor.normalize": "all_features"}, r"preprocessor\.normalize='all_features', not 'per_feature'"),
        ({TRAINED: torch.full((1,), torch.nan)}, {}, r"decoder\.decoder_layers\.0\.weight"),
    ],
)
def test_files_that_cannot_be_averaged_are_refused_by_what_differs(checkpoint, tmp_path, change, config, said):
    paths = checkpoint("a.ckpt", 1), checkpoint("b.ckpt", 2, **config)
    whole = state(paths[1])
    change = {name: tensor.expand(whole[name].shape).contiguous() for name, tensor in change.items()}
    checkpoint("b.ckpt", 2, change=change, **config)
    with pytest.raises(ValueError, match=said) as raised:
        average(*paths, output=tmp_path / "out.nemo")
    assert "\n" not in str(raised.value) and not (tmp_path / "out.nemo").exists()


def test_options_that_act_in_training_only_may_differ(checkpoint, tmp_path):
    paths = checkpoint("a.ckpt", 1), checkpoint("b.ckpt", 2, **{"encoder.dropout": 0.3})
    assert average(*paths, output=tmp_path / "out.nemo")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.ckpt"], r"1 of 2 checkpoints with different weights are there$"),
        (["a.ckpt", "a.ckpt"], "1 of 2 checkpoints with different weights"),
        (["a.ckpt", "b.ckpt", "--last", "2"], "--last and --best choose from a run's folder"),
        (["."], "a folder stands alone, with --last N or --best N"),
        ([".", "a.ckpt", "--last", "2"], "a folder stands alone"),
        ([".", "--last", "1"], "need 2 or more to average, not 1"),
        ([".", "--last", "3"], "2 of 3 checkpoints with different weights are there; .*save_top_k"),
        ([".", "--best", "2"], "0 of 2 checkpoints"),
        (["a.ckpt", "plain.ckpt"], r"plain\.ckpt says nothing of the model's config"),
        (["a.ckpt", "missing.ckpt"], "missing.ckpt doesn't exist"),
        (["missing", "--last", "2"], "missing doesn't exist"),
        (["a.ckpt", "b.ckpt", "-o", "out.zip"], "must end in one of .nemo, .ckpt, .safetensors"),
        (["a.ckpt", "b.ckpt", "-o", "a.ckpt"], "is there already"),
    ],
)
def test_a_mistake_is_one_line(checkpoint, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    checkpoint("a.ckpt", 1)
    checkpoint("b.ckpt", 2)
    save_checkpoint({"state_dict": {"a": torch.ones(1)}}, tmp_path / "plain.ckpt")
    with pytest.raises((ValueError, OSError), match=said) as raised:
        main(["-o", "out.nemo", *arguments])
    assert "\n" not in str(raised.value)


def test_a_folder_of_several_runs_is_refused(checkpoint, tmp_path):
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        checkpoint(f"{run}/a.ckpt", 1)
    with pytest.raises(ValueError, match="holds checkpoints of several runs"):
        main([str(tmp_path), "--last", "2", "-o", str(tmp_path / "out.nemo")])
