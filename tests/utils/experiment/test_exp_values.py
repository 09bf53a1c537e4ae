import pytest
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from tests.utils.tiny_run import TinyModel
from utils.exp_manager import exp_manager
from utils.experiment.exp_config import ExpManagerConfig, read_exp_config
from utils.experiment.exp_values import LIMITS, check_values

CHECKPOINTS = "checkpoint_callback_params"
NAMES = ("name", "version", *(f"{CHECKPOINTS}.{key}" for key in ("filename", "prefix", "postfix")))
LEADING_OUT = ("../x", "a/../../x", "..", "/x", "..\\x", "C:\\x", "{../../x}", ".{./x}")
OUT_OF_LIMITS = [
    *((key, value) for key in NAMES for value in LEADING_OUT),
    (f"{CHECKPOINTS}.prefix", "a/b"),
    (f"{CHECKPOINTS}.postfix", "/b.nemo"),
    (f"{CHECKPOINTS}.postfix", "\\b.nemo"),
    (f"{CHECKPOINTS}.mode", "mim"),
    (f"{CHECKPOINTS}.save_top_k", -2),
    (f"{CHECKPOINTS}.every_n_epochs", -1),
    (f"{CHECKPOINTS}.every_n_train_steps", -1),
    ("early_stopping_callback_params.mode", "lowest"),
    ("max_time_per_run", "10"),
    ("max_time_per_run", "an hour"),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def nested(key: str, value: object) -> dict:
    options = OmegaConf.create()
    OmegaConf.update(options, key, value)
    return OmegaConf.to_container(options)


def new_trainer(**options) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", devices=1, enable_model_summary=False, num_sanity_val_steps=0, **quiet, **options)


def test_every_limit_has_a_case():
    assert LIMITS.keys() == {key for key, _ in OUT_OF_LIMITS}


def test_the_defaults_are_within_the_limits():
    check_values(ExpManagerConfig())


@pytest.mark.parametrize(("key", "value"), OUT_OF_LIMITS)
def test_what_is_out_of_its_limits_is_refused_by_key_and_value_and_nothing_is_made(key, value, tmp_path):
    with pytest.raises(ValueError) as refused:
        exp_manager(new_trainer(), nested(key, value))
    assert str(refused.value).startswith(f"exp_manager.{key}={value!r} must be ") and "\n" not in str(refused.value)
    assert list(tmp_path.rglob("*")) == [tmp_path / "work"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "group/run"),
        ("name", "run..2"),
        ("version", "a/b"),
        (f"{CHECKPOINTS}.filename", "{epoch}/x-{val_loss:.4f}-{step}"),
        (f"{CHECKPOINTS}.prefix", "nest..v1"),
        (f"{CHECKPOINTS}.every_n_epochs", None),
        ("max_time_per_run", "100:00:00:00"),
    ],
)
def test_what_is_within_its_limits_is_taken(key, value):
    check_values(read_exp_config(nested(key, value)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ema", {"enable": True, "decay": 1.5}),
        ("max_skipped_steps_in_a_row", -1),
        (f"{CHECKPOINTS}.train_time_interval", {"seconds": 0}),
        (f"{CHECKPOINTS}.train_time_interval", {"hours": "one"}),
        (f"{CHECKPOINTS}.postfix", ".tar"),
        ("step_timing_kwargs.reduction", "median"),
        ("summary_writer_kwargs", {"log_dir": "x"}),
        ("files_to_copy", ["nowhere.txt"]),
    ],
)
def test_what_callbacks_and_loggers_refuse_is_refused_before_anything_is_made(key, value, tmp_path):
    with pytest.raises((ValueError, OSError), match=rf"^exp_manager\.{key}"):
        exp_manager(new_trainer(), nested(key, value))
    assert list(tmp_path.rglob("*")) == [tmp_path / "work"]


@pytest.mark.parametrize("filename", ["sub/t-{step}", "{step}/t"])
@pytest.mark.parametrize("name", ["run", "group/run"])
def test_a_run_goes_on_from_checkpoints_in_folders_below(filename, name):
    params = {"filename": filename, "save_top_k": 1, "monitor": None, "every_n_train_steps": 1}
    options = {"name": name, "resume_if_exists": True, "resume_ignore_no_checkpoint": True, CHECKPOINTS: params}
    for steps in (2, 4):
        trainer = new_trainer(max_steps=steps)
        folder = exp_manager(trainer, options)
        assert (trainer.ckpt_path is not None) == (steps == 4)
        trainer.fit(TinyModel())
    assert all((folder / "checkpoints") in path.parents for path in folder.parent.rglob("*.ckpt"))
    assert len(list(folder.rglob("*.ckpt"))) == 2  # one, and the last
