from pathlib import Path

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from utils.experiment.exp_callbacks import build_callbacks, build_checkpoints
from utils.experiment.exp_config import read_exp_config
from utils.training.ema import EMA


@pytest.mark.parametrize(
    ("options", "params", "path"),
    [
        ({"name": "exp"}, {}, "run/checkpoints/exp.nemo"),
        ({}, {}, "run/checkpoints/default.nemo"),
        ({"name": "exp"}, {"prefix": "a", "postfix": "-b.nemo"}, "run/checkpoints/a-b.nemo"),
        ({"name": "exp"}, {"dirpath": "/elsewhere"}, "/elsewhere/exp.nemo"),
    ],
)
def test_the_model_has_nemos_name_beside_the_checkpoints(options, params, path):
    options = read_exp_config({**options, "checkpoint_callback_params": params})
    model = build_checkpoints(options, Path("run")).model
    assert model.path == Path(path if params.get("dirpath") is None else Path(path).absolute())


@pytest.mark.parametrize(
    ("key", "attribute", "value"),
    [
        ("always_save_nemo", "_at_checkpoints", True),
        ("save_nemo_on_train_end", "_at_end", False),
        ("save_best_model", "_best_only", True),
    ],
)
def test_when_the_model_is_written_is_as_told(key, attribute, value):
    for given in (value, not value):
        options = read_exp_config({"checkpoint_callback_params": {key: given}})
        assert getattr(build_checkpoints(options, Path("run")).model, attribute) is given


def test_a_model_without_its_suffix_is_refused():
    options = read_exp_config({"checkpoint_callback_params": {"postfix": ".tar"}})
    with pytest.raises(ValueError, match=r"^exp_manager\.checkpoint_callback_params\.postfix must end in \.nemo"):
        build_checkpoints(options, Path("run"))


@pytest.mark.parametrize(("weights_only", "resume"), [(True, True), (True, False), (False, True)])
def test_a_run_that_could_not_go_on_is_warned_of(tmp_path, log, weights_only, resume):
    params = {"save_weights_only": weights_only}
    build_callbacks(read_exp_config({"resume_if_exists": resume, "checkpoint_callback_params": params}), tmp_path)
    said = "checkpoint_callback_params.save_weights_only=true: these checkpoints have no state" in log.text
    assert said == (weights_only and resume)


def test_an_average_is_kept_as_told_and_stands_before_what_saves(tmp_path):
    ema = {"enable": True, "decay": 0.5, "cpu_offload": True, "validate_original_weights": True, "every_n_steps": 3}
    callbacks = build_callbacks(read_exp_config({"ema": ema}), tmp_path)
    kinds = [type(callback).__name__ for callback in callbacks]
    built = callbacks[kinds.index("EMA")]
    assert {"enable": True} | {key: getattr(built, key) for key in ema if key != "enable"} == ema
    assert kinds.index("EMA") < kinds.index("Checkpoints")
    assert not any(isinstance(callback, EMA) for callback in build_callbacks(read_exp_config({}), tmp_path))


def test_patience_is_that_of_the_config_when_a_run_goes_on(tmp_path):
    options = {"create_early_stopping_callback": True, "early_stopping_callback_params": {"patience": 20}}
    (stopping,) = (one for one in build_callbacks(read_exp_config(options), tmp_path) if isinstance(one, EarlyStopping))
    state = stopping.state_dict() | {"wait_count": 2, "patience": 3}
    stopping.load_state_dict(state)
    assert (stopping.patience, stopping.wait_count) == (20, 2)
    assert stopping.state_key == EarlyStopping("val_loss", mode="min").state_key
