import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from data.ssl_dataset import audio_noise_dataloader
from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tools import prepare_dummy_ssl_data
from tools.evaluate_ssl import (
    Guesses,
    build_model,
    clustered_standard_error,
    collect_guesses,
    draw_utterance,
    entropy,
    main,
    read_checkpoint,
    summarise,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dummy")
    sizes = ["--num_train", "1", "--num_val", "4", "--num_noise", "1", "--num_talkers", "2"]
    sizes += ["--min_duration", "3", "--max_duration", "4"]
    prepare_dummy_ssl_data.main(["--output_dir", str(folder), *sizes])
    return folder


@pytest.fixture(scope="module")
def checkpoint(small_config, data, tmp_path_factory) -> Path:
    """A model with fresh weights, saved as Lightning would."""
    cfg = small_config(
        **{
            "masking.min_masks": 1,
            "validation_ds.manifest_filepath": str(data / "val_manifest.json"),
            "validation_ds.noise_manifest": str(data / "noise_val_manifest.json"),
            "train_ds.manifest_filepath": None,
        }
    )
    torch.manual_seed(0)
    model = EncDecDenoiseMaskedTokenPredModel(cfg)
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    hyper_parameters = {"cfg": OmegaConf.to_container(model.cfg)}
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": hyper_parameters}, path)
    return path


def guesses(target, guess, utterance) -> Guesses:
    target, guess = np.array(target)[:, None], np.array(guess)[:, None]
    return Guesses(np.array(utterance), target, guess, np.full(target.shape, 2.0))


def test_the_summary_counts_what_was_guessed_right_and_what_the_commonest_code_would_get():
    result = summarise(guesses([3, 3, 1, 2], [3, 1, 1, 2], [0, 0, 1, 1]), num_classes=8)
    assert result["accuracy"] == 0.75
    assert result["commonest_code_accuracy"] == 0.5
    assert result["difference"] == 0.25
    assert result["loss"] == 2.0
    assert result["codes_used"] == 3
    assert result["entropy"] == pytest.approx(-(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25)))
    assert (result["scored_steps"], result["utterances"]) == (4, 2)


def test_each_codebook_has_a_commonest_code_of_its_own():
    target = np.array([[1, 5], [1, 5], [2, 5], [1, 0]])
    both = Guesses(np.arange(4), target, np.zeros_like(target), np.zeros(target.shape))
    assert summarise(both, num_classes=8)["commonest_code_accuracy"] == 0.75


def test_uniform_frequencies_have_the_entropy_of_their_number():
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(np.log(4))


def test_alone_in_their_clusters_values_have_the_ordinary_standard_error():
    values = np.random.default_rng(0).standard_normal(50)
    expected = values.std(ddof=1) / np.sqrt(50)
    assert clustered_standard_error(values, np.arange(50)) == pytest.approx(expected)


def test_repeating_the_same_utterances_makes_nothing_more_certain():
    values = np.random.default_rng(0).standard_normal(50)
    once = clustered_standard_error(values, np.arange(50))
    assert clustered_standard_error(np.tile(values, 4), np.tile(np.arange(50), 4)) == pytest.approx(once)


def test_one_utterance_has_no_standard_error():
    assert np.isnan(clustered_standard_error(np.ones(5), np.zeros(5)))


def test_the_same_questions_are_asked_every_time_and_others_in_another_draw(checkpoint):
    cfg, state = read_checkpoint(checkpoint)
    model = build_model(cfg, state)
    first, again, more = (collect_guesses(model, cfg.validation_ds, draws) for draws in (1, 1, 2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    count = len(first.utterance)
    np.testing.assert_array_equal(more.target[:count], first.target)
    assert not np.array_equal(more.target[count : 2 * count], first.target)
    assert set(first.utterance) <= set(range(4))


def test_collected_losses_agree_with_the_models_own(checkpoint):
    cfg, state = read_checkpoint(checkpoint)
    model = build_model(cfg, state)
    data = OmegaConf.merge(cfg.validation_ds, {"batch_size": 5})
    (batch,) = audio_noise_dataloader(data, path="model.validation_ds", training=False)
    with torch.no_grad():
        scored = model.step(batch, seeded=True)
    collected = collect_guesses(model, data)
    assert collected.loss.mean() == pytest.approx(float(scored.loss), abs=1e-5)
    assert (collected.guess == collected.target).mean() == pytest.approx(float(scored.accuracy))


def test_it_says_writes_and_draws_what_it_found(checkpoint, tmp_path, capsys):
    numbers, picture = tmp_path / "out" / "numbers.json", tmp_path / "out" / "picture.png"
    main([str(checkpoint), "--seeds", "1", "--untrained", "--json", str(numbers), "--plot", str(picture)])
    result = json.loads(numbers.read_text(encoding="utf-8"))
    assert f"masked accuracy {result['accuracy']:.3f}" in capsys.readouterr().out
    assert abs(result["loss_untrained"] - np.log(32)) < 1.0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_run_as_a_program_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, "tools/evaluate_ssl.py", str(tmp_path / "x.ckpt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("x.ckpt doesn't exist, or is no file")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mask_position", ["pre_conv", "post_conv"])
def test_an_utterance_is_drawn_in_either_mask_position(mask_position, checkpoint, small_config, tmp_path):
    cfg, _ = read_checkpoint(checkpoint)
    cfg.mask_position = mask_position
    model = EncDecDenoiseMaskedTokenPredModel(cfg).eval()
    draw_utterance(model, cfg.validation_ds, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").is_file()


def test_manifests_of_the_command_line_replace_those_of_the_checkpoint(checkpoint, data, tmp_path):
    result = tmp_path / "numbers.json"
    main([str(checkpoint), "--manifest", str(data / "train_manifest.json"), "--seeds", "3", "--json", str(result)])
    assert json.loads(result.read_text(encoding="utf-8"))["utterances"] == 1


def test_a_checkpoint_of_a_run_without_validation_is_evaluated_on_a_given_manifest(checkpoint, data, tmp_path):
    saved = torch.load(checkpoint, weights_only=True)
    saved["hyper_parameters"]["cfg"]["validation_ds"] = None
    torch.save(saved, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="give --manifest"):
        main([str(tmp_path / "x.ckpt")])
    main([str(tmp_path / "x.ckpt"), "--manifest", str(data / "val_manifest.json"), "--json", str(tmp_path / "x.json")])
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["scored_steps"] > 0


def test_a_nemo_file_is_evaluated_as_the_checkpoint_that_it_was_made_of(checkpoint, tmp_path):
    EncDecDenoiseMaskedTokenPredModel.load_from_checkpoint(checkpoint).save_to(tmp_path / "x.nemo")
    for name, path in {"ckpt": checkpoint, "nemo": tmp_path / "x.nemo"}.items():
        main([str(path), "--seeds", "1", "--json", str(tmp_path / name)])
    assert (tmp_path / "ckpt").read_text(encoding="utf-8") == (tmp_path / "nemo").read_text(encoding="utf-8")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.ckpt doesn't exist, or is no file"):
        main([str(tmp_path / "x.ckpt")])


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.ckpt is"):
        main([str(tmp_path / "x.ckpt")])


class RunsCode:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-checkpoint"),))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": RunsCode()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt names .*, which is code"):
        main([str(tmp_path / "evil.ckpt")])
    assert not (tmp_path / "touched-by-a-checkpoint").exists()
