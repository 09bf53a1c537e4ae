"""A model under Lightning: optimizer, schedule, metrics, checkpoints."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.classes import ModelPT
from utils.training.ema import EMA

NOAM = {"name": "NoamAnnealing", "d_model": 16, "warmup_steps": 5}


class Line(ModelPT):
    """Learns y = 0 from rows of numbers; manifest_filepath names how many rows there are: "train_10"."""

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        super().__init__(cfg, trainer)
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.Linear(2, 1)
        self.codes = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
        self.rates: list[float] = []

    def build_dataloader(self, config: DictConfig, path: str) -> DataLoader:
        rows = int(str(config.manifest_filepath).rpartition("_")[2])
        return DataLoader(torch.arange(2.0 * rows).view(rows, 2) / rows, batch_size=config.batch_size)

    def training_step(self, batch: Tensor, batch_idx: int = 0) -> Tensor:
        loss = self.decoder(self.encoder(batch)).square().mean()
        self.log("train_loss", loss, on_epoch=True)
        self.rates.append(self.learning_rate)
        return loss

    def evaluation_step(self, batch: Tensor) -> tuple[dict[str, Tensor], int]:
        return {"loss": batch[:, 0].mean(), "accuracy": (batch[:, 0] > 0.5).float().mean()}, len(batch)


def config(**sections) -> DictConfig:
    base = {
        "train_ds": {"manifest_filepath": "train_10", "batch_size": 3},
        "optim": {"name": "adamw", "lr": 0.1, "betas": [0.9, 0.98], "sched": NOAM},
    }
    return OmegaConf.create(base | sections)


def trainer(**options) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, **{**quiet, **options})


# config


def test_the_config_is_a_resolved_copy_that_refuses_new_keys():
    whole = OmegaConf.create({"width": 7, "model": {**config(), "d_model": "${width}"}})
    model = Line(whole.model)
    whole.width = 8
    assert model.cfg.d_model == 7
    with pytest.raises(AttributeError):
        model.cfg.d_modl = 3


def test_a_trainer_must_be_a_trainer():
    with pytest.raises(ValueError, match=r"trainer must be a lightning\.pytorch\.Trainer or None, not str"):
        Line(config(), trainer="cpu")


# optimizer and schedule


def test_setup_optimization_gives_optimizer_and_schedule_and_keeps_both():
    model = Line(config())
    optimizer, schedule = model.setup_optimization()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (model._optimizer, model._scheduler) == (optimizer, schedule)
    assert (schedule["scheduler"].warmup_steps, schedule["interval"]) == (5, "step")


def test_another_optimizer_config_takes_the_place_of_the_models():
    model = Line(config())
    optimizer, schedule = model.setup_optimization(OmegaConf.create({"name": "sgd", "lr": 0.5}))
    assert isinstance(optimizer, torch.optim.SGD)
    assert schedule is None
    assert model.cfg.optim.name == "sgd"


def test_arguments_that_no_config_can_hold_come_separately():
    model = Line(config())
    rate = torch.tensor(0.25)
    optimizer, _ = model.setup_optimization({"name": "adamw", "lr": 0.1}, optim_kwargs={"lr": rate, "foreach": False})
    assert optimizer.param_groups[0]["lr"] is rate


def test_all_parameters_are_in_the_optimizer_also_frozen_ones_as_in_nemo():
    model = Line(config())
    (group,) = model.setup_optimization()[0].param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]


def test_modules_can_have_options_of_their_own():
    model = Line(config(optim_param_groups={"encoder": {"lr": 0.01, "weight_decay": 0.0}}))
    rest, encoder = model.setup_optimization()[0].param_groups
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert len(rest["params"]) == 3
    assert (encoder["initial_lr"], rest["initial_lr"]) == (0.01, 0.1)
    assert (encoder["weight_decay"], rest["weight_decay"]) == (0.0, 0.01)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": None}, "model.optim is missing: name an optimizer there"),
        ({"optim": {"name": "adamq", "lr": 1}}, "model.optim.name='adamq' is not an optimizer; did you mean 'adam"),
        ({"optim": {"name": "adam", "sched": {"name": "Noam"}}}, "model.optim.sched.name='Noam' is not a scheduler"),
        ({"optim": {"name": "adam", "sched": {"name": "CosineAnnealing"}}}, "max_steps is not known: set trainer"),
        ({"optim_param_groups": {"encodr": {"lr": 1}}}, "model.optim_param_groups.encodr is not a module of Line"),
    ],
)
def test_a_wrong_optimizer_config_is_one_line_with_its_path(sections, message):
    with pytest.raises(ValueError, match=message) as caught:
        Line(config(**sections)).setup_optimization()
    assert "\n" not in str(caught.value)


COSINE = {"name": "sgd", "lr": 0.01, "sched": {"name": "CosineAnnealing", "warmup_steps": 2}}


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_steps": 3}, 3),
        ({"max_epochs": 2}, 8),  # 4 batches an epoch
        ({"max_epochs": 3, "accumulate_grad_batches": 3}, 6),  # 3 + 1 batches an epoch
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 4),
        ({"max_epochs": 5, "max_steps": 3}, 3),
    ],
)
def test_the_schedule_ends_where_the_trainer_does(options, steps):
    model = Line(config(optim=COSINE))
    run = trainer(**options)
    run.fit(model)
    assert model._scheduler["scheduler"].max_steps == steps == run.global_step


def test_rates_of_a_run_are_the_schedules():
    model = Line(config())
    trainer(max_steps=8).fit(model)
    expected = [0.1 * 0.25 * min(max(step, 1) ** -0.5, max(step, 1) * 5**-1.5) for step in range(8)]
    assert model.rates == pytest.approx(expected)
    assert torch.equal(model.codes, torch.ones(3, dtype=torch.float64))


def test_an_endless_run_needs_max_steps_only_for_schedules_that_end():
    model = Line(config(optim=COSINE))
    with pytest.raises(ValueError, match="sched: max_steps is not known: set trainer"):
        trainer(max_epochs=-1).fit(model)
    model.set_trainer(trainer(max_epochs=-1))
    assert model.setup_optimization({"name": "sgd", "sched": NOAM})[1]["scheduler"].max_steps is None


def test_a_rate_that_follows_a_metric_falls_when_the_metric_stands_still():
    plateau = {"name": "ReduceLROnPlateau", "monitor": "val_loss", "patience": 0, "factor": 0.5}
    validation = {"manifest_filepath": "val_4", "batch_size": 4}
    model = Line(config(validation_ds=validation, optim={"name": "sgd", "lr": 0.01, "sched": plateau}))
    trainer(max_epochs=4).fit(model)
    assert model.learning_rate == pytest.approx(0.01 * 0.5**3)


def test_a_resumed_run_has_the_rates_of_a_straight_one(tmp_path):
    straight = Line(config())
    trainer(max_steps=8).fit(straight)
    first = Line(config())
    run = trainer(max_steps=4)
    run.fit(first)
    run.save_checkpoint(tmp_path / "half.ckpt")
    second = Line(config())
    trainer(max_steps=8).fit(second, ckpt_path=tmp_path / "half.ckpt")
    assert first.rates + second.rates == straight.rates


def test_a_validation_that_read_nothing_says_so_and_gives_no_number(caplog):
    model = Line(config())
    logged = {}
    model.log = lambda name, value, **options: logged.update({name: value})
    with caplog.at_level("WARNING", logger="nest_ssl"):
        model.on_validation_epoch_end()
    assert math.isnan(logged["val_loss"])
    assert "no sample of the validation data could be read" in caplog.text


def test_weights_of_another_model_are_refused_in_one_line():
    model = Line(config())
    state = model.state_dict()
    model.on_load_checkpoint({"state_dict": state})
    for other in ({**state, "encoder.weight": torch.zeros(3, 2)}, {**state, "more": torch.zeros(1)}):
        with pytest.raises(ValueError, match=r"the checkpoint is of another model: \S+ is .* there and .* here"):
            model.on_load_checkpoint({"state_dict": other})


# metrics


def metrics(model: Line, stage: str) -> dict[str, float]:
    return {k: float(v) for results in getattr(trainer(), stage)(model, verbose=False) for k, v in results.items()}


@pytest.mark.parametrize(("stage", "prefix"), [("validate", "val"), ("test", "test")])
def test_a_metric_is_the_mean_over_samples_not_over_batches(stage, prefix):
    section = {"manifest_filepath": "a_5", "batch_size": 2}
    model = Line(config(validation_ds=section, test_ds=section))
    rows = torch.arange(10.0).view(5, 2)[:, 0] / 5
    assert metrics(model, stage) == {
        f"{prefix}_loss": pytest.approx(rows.mean().item()),
        f"{prefix}_accuracy": pytest.approx((rows > 0.5).float().mean().item()),
    }


@pytest.mark.parametrize(("stage", "prefix"), [("validate", "val"), ("test", "test")])
def test_several_sets_have_their_own_names_and_one_of_them_is_the_loss(stage, prefix):
    section = {"manifest_filepath": ["dev-clean_4", "noisy_6"], "batch_size": 2}
    model = Line(config(validation_ds={**section, "val_dl_idx": 1}, test_ds={**section, "test_dl_idx": 1}))
    logged = metrics(model, stage)
    assert set(logged) == {
        f"{name}{prefix}_{metric}" for name in ("dev_clean_4_", "noisy_6_", "") for metric in ("loss", "accuracy")
    }
    assert logged[f"{prefix}_loss"] == logged[f"noisy_6_{prefix}_loss"] != logged[f"dev_clean_4_{prefix}_loss"]


def test_an_empty_batch_is_left_out_of_the_mean():
    model = Line(config(validation_ds={"manifest_filepath": "a_4", "batch_size": 4}))
    run = trainer()
    run.validate(model, DataLoader([torch.zeros(0, 2), torch.full((2, 2), 3.0)], batch_size=None), verbose=False)
    assert run.callback_metrics["val_loss"] == 3.0


def test_a_model_without_evaluation_step_says_so():
    class Bare(Line):
        evaluation_step = ModelPT.evaluation_step

    model = Bare(config(validation_ds={"manifest_filepath": "a_4", "batch_size": 4}))
    with pytest.raises(NotImplementedError, match="Bare has no evaluation_step"):
        trainer().validate(model, verbose=False)


# checkpoints


def test_a_lightning_checkpoint_holds_the_config_as_plain_data(tmp_path):
    model = Line(config())
    run = trainer(max_steps=1)
    run.fit(model)
    model.setup_training_data({"manifest_filepath": "other_4", "batch_size": 2})
    run.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["cfg"]["train_ds"] == {"manifest_filepath": "other_4", "batch_size": 2}
    again = Line.load_from_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert {**again.cfg} == {**model.cfg, "target": f"{Line.__module__}.Line", "nemo_version": "3.0.0"}


def test_a_run_without_averages_says_that_those_of_its_checkpoint_end(tmp_path, log):
    first = trainer(max_steps=1, callbacks=EMA(0.9))
    first.fit(Line(config()))
    first.save_checkpoint(tmp_path / "x.ckpt")
    trainer(max_steps=2).fit(Line(config()), ckpt_path=tmp_path / "x.ckpt")
    assert "holds a moving average of the weights, which ends here" in log.text


def test_a_resumed_run_keeps_its_optimizer_and_says_what_it_overrules(tmp_path, log):
    first = trainer(max_steps=1)
    first.fit(Line(config()))
    first.save_checkpoint(tmp_path / "x.ckpt")
    faster = {"name": "adamw", "lr": 0.2, "betas": [0.9, 0.98], "sched": NOAM}
    trainer(max_steps=2).fit(Line(config(optim=faster)), ckpt_path=tmp_path / "x.ckpt")
    assert "the checkpoint's optimizer goes on: model.optim.lr=0.1, not 0.2;" in log.text
    other = Line(config(optim={"name": "sgd", "lr": 0.1}))
    with pytest.raises(ValueError, match=r"^model\.optim\.name=sgd, and the checkpoint is of a run with adamw: "):
        trainer(max_steps=2).fit(other, ckpt_path=tmp_path / "x.ckpt")


def test_a_resumed_run_with_the_same_optimizer_says_nothing_of_it(tmp_path, log):
    first = trainer(max_steps=1)
    first.fit(Line(config()))
    first.save_checkpoint(tmp_path / "x.ckpt")
    trainer(max_steps=2).fit(Line(config()), ckpt_path=tmp_path / "x.ckpt")
    assert "optimizer goes on" not in log.text
