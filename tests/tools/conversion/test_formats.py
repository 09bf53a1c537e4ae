import pytest

from core.connectors.initial_weights import READERS
from tools.conversion.formats import FOLDER, FORMATS, ONNX_WITH_PREPROCESSOR, kind_of
from tools.conversion.self_check import FEATURES, LOG_PROBS, STATES, WEIGHTS


def test_whole_models_stay_bit_for_bit():
    whole = {kind for kind, form in FORMATS.items() if form.holds_whole_models}
    assert whole == set(READERS)
    for kind in whole:
        assert FORMATS[kind].tolerances == {FEATURES: 0.0, STATES: 0.0, LOG_PROBS: 0.0, WEIGHTS: 0.0}


def test_only_onnx_can_not_be_read():
    assert {kind for kind, form in FORMATS.items() if form.read is None} == {".onnx"}
    assert ONNX_WITH_PREPROCESSOR.read is None


@pytest.mark.parametrize("name", ["model", "model/", "model.v2/", "C:\\models\\nest\\"])
def test_a_name_that_is_to_become_a_folder(name):
    assert kind_of(name) == FOLDER


def test_a_folder_that_is_there_is_one_whatever_its_name(tmp_path):
    (tmp_path / "parakeet-0.6b").mkdir()
    assert kind_of(str(tmp_path / "parakeet-0.6b")) == kind_of(str(tmp_path), is_input=True) == FOLDER


@pytest.mark.parametrize("name", ["x.pt", "parakeet-0.6b"])
def test_other_ends_are_refused_by_what_is_known(name):
    with pytest.raises(ValueError, match=rf"one of \.ckpt, \.nemo, \.safetensors, \.onnx; .* write {name}/"):
        kind_of(name)


def test_an_input_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.nemo doesn't exist"):
        kind_of(str(tmp_path / "x.nemo"), is_input=True)
