"""What the check of a conversion notices."""

from copy import deepcopy

import numpy as np
import pytest
import soundfile
import torch

from models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from tools.conversion.self_check import (
    SECONDS,
    STATES,
    Output,
    check,
    compare,
    load,
    make_speech,
    run_model,
    synthesise,
)

EXACT = {"features": 0.0, STATES: 0.0, "log-probabilities": 0.0, "weights": 0.0}


@pytest.fixture
def model(small_config):
    torch.manual_seed(0)
    return EncDecDenoiseMaskedTokenPredModel(small_config(**{"train_ds.manifest_filepath": None})).eval()


def states(*values: torch.Tensor) -> list[Output]:
    return [Output(STATES, "theirs", list(values))]


def test_the_largest_difference_of_all_utterances_counts():
    first, second = torch.zeros(4, 2), torch.zeros(3, 2)
    other = second.clone()
    other[2, 1] = -0.5
    (found,) = compare(states(first, second), states(first, other), {STATES: 0.4})
    assert found.largest == 0.5 and not found.is_small
    assert str(found) == "theirs: 5.0e-01 (at most 4e-01)"


def test_large_values_may_differ_by_more():
    right = torch.full((4, 2), 100.0)
    (found,) = compare(states(right), states(right + 0.5), {STATES: 0.01})
    assert found.tolerance == pytest.approx(1.0) and found.is_small
    (exact,) = compare(states(right), states(right + 1e-4), {STATES: 0.0})
    assert not exact.is_small


def test_nan_is_a_difference():
    right = torch.zeros(4, 2)
    (found,) = compare(states(right), states(right * float("nan")), {STATES: 1.0})
    assert not found.is_small


def test_another_number_of_steps_is_an_error():
    with pytest.raises(ValueError, match=r"theirs: \[3, 2\] items where \[4, 2\] are right"):
        compare(states(torch.zeros(4, 2)), states(torch.zeros(3, 2)), {STATES: 1.0})


@pytest.mark.parametrize(
    "name", ["quantizer.codebooks", "mask_processor.mask_embedding", "encoder.pre_encode.out.bias"]
)
def test_every_weight_counts(model, name):
    """Also those that no state depends on."""
    speech, changed = make_speech(model, synthesise(16000)), deepcopy(model)
    changed.state_dict()[name].view(-1)[-1] += 1e-3
    differences = compare(run_model(model, speech), run_model(changed, speech), EXACT)
    assert "weights" in {difference.label for difference in differences if not difference.is_small}


def test_a_broken_model_is_not_taken_for_a_wrong_conversion(model):
    model.encoder.layers[0].norm_out.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="aren't finite"):
        make_speech(model, synthesise(16000))


def test_the_failing_side_is_named(model):
    speech = make_speech(model, synthesise(16000))
    found = [Output(STATES, "their states", [x + 1 for x in run_model(model, speech)[1].values])]
    with pytest.raises(ValueError, match=r"x.nemo is another model than the one read: their states: 1.0e\+00"):
        check(model, found, EXACT, "x.nemo", speech)


def test_synthesised_speech_is_ragged_and_always_the_same():
    first, second = synthesise(16000), synthesise(16000)
    assert [len(x) for x in first] == [round(s * 16000) for s in SECONDS]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_recordings_are_cut_and_made_ragged(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in (("short", 0.2), ("one", 1.0), ("long", 20.0)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(int(seconds * 8000)), 8000)
    assert [len(x) for x in load([tmp_path / "one.wav"], 16000)] == [16000, 8000]
    assert [len(x) for x in load([tmp_path / "one.wav", tmp_path / "long.wav"], 16000)] == [16000, 16 * 16000]
    with pytest.raises(ValueError, match=r"short.wav lasts 0.20 s"):
        load([tmp_path / "short.wav"], 16000)
    with pytest.raises(ValueError, match=r"none.wav: "):
        load([tmp_path / "none.wav"], 16000)
