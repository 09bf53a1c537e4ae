import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from core.optim.optimizers import OPTIMIZERS, build_optimizer
from tests.two_ranks import two_ranks
from tests.utils.tiny_run import Batch, TinyModel
from utils.training.finite_steps import FILE_NAME, FiniteSteps, step_was_skipped

NAN, INF = math.nan, math.inf


@dataclass
class NamedBatch(Batch):
    """factor: on the loss."""

    sample_id: list = field(default_factory=list)
    factor: float = 1.0


class Squeezed(torch.autograd.Function):
    """0, whatever comes in, with a gradient that isn't finite."""

    @staticmethod
    def forward(ctx, x):
        return x * 0.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient * INF


class Model(TinyModel):
    """Batch i has the samples 2 i and 2 i + 1, and the loss times factors[i]; "gradient": only that isn't finite."""

    def __init__(self, factors, optimizer="adamw", audio=None, options=None):
        super().__init__(batches=len(factors), validate=False)
        torch.manual_seed(0)
        self.out.reset_parameters()
        self.factors, self.optimizer = factors, optimizer
        self.audio = audio or {}
        self.options = {"lr": 0.01, "weight_decay": 0.1} if options is None else options

    def training_step(self, batch, batch_idx):
        if batch.factor == "gradient":
            return super().training_step(batch, batch_idx) + Squeezed.apply(self.out.weight.sum())
        return super().training_step(batch, batch_idx) * batch.factor

    def train_dataloader(self):
        torch.manual_seed(1)
        items = [
            NamedBatch(torch.randn(2, 3), torch.tensor([16000, 16000]), [f"s{2 * i}", f"s{2 * i + 1}"], factor)
            for i, factor in enumerate(self.factors)
        ]
        for i, value in self.audio.items():
            items[i].audio[0, 0] = value
        return DataLoader(items, batch_size=None)

    def configure_optimizers(self):
        optimizer = build_optimizer(self.parameters(), {"name": self.optimizer, **self.options})
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class Watch(Callback):
    """What a run was like after each batch."""

    def __init__(self):
        self.states, self.skipped = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        optimizer = {str(key): value for key, value in flat(trainer.optimizers[0].state_dict()).items()}
        rates = {key for key in optimizer if "lr" in key.split(".")}
        state = pl_module.state_dict() | {key: value for key, value in optimizer.items() if key not in rates}
        self.states.append({key: torch.as_tensor(value).clone() for key, value in state.items()})
        self.skipped.append(step_was_skipped(trainer))


def flat(tree: object, path: str = "") -> dict:
    """Numbers and tensors by their dotted path."""
    if isinstance(tree, dict):
        return {k: v for key, inner in tree.items() for k, v in flat(inner, f"{path}.{key}").items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), path)
    return {path: tree} if isinstance(tree, (int, float, torch.Tensor)) else {}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def new_trainer(*callbacks, **options) -> Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": 1}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(callbacks=[*callbacks], **defaults | quiet | options)


def run(model: Model, guard: FiniteSteps | None = None, **options) -> tuple[Trainer, Watch]:
    watch = Watch()
    trainer = new_trainer(guard or FiniteSteps(), watch, **options)
    trainer.fit(model)
    return trainer, watch


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / FILE_NAME).read_text(encoding="utf-8").splitlines()]


# a step left out changes nothing


@pytest.mark.parametrize("bad", [NAN, INF, -INF, "gradient"])
@pytest.mark.parametrize("clipping", ["none", "norm", "value"])
def test_weights_moments_and_running_statistics_stay(bad, clipping):
    clip = {} if clipping == "none" else {"gradient_clip_val": 0.1, "gradient_clip_algorithm": clipping}
    trainer, watch = run(Model([1.0, bad, 1.0]), **clip)
    first, second, third = watch.states
    assert equal(first, second) and not equal(second, third)
    assert watch.skipped == [False, True, False]
    assert all(value.isfinite().all() for value in third.values())
    assert trainer.callback_metrics["train_skipped_steps"] == 1
    assert trainer.gradient_clip_val == clip.get("gradient_clip_val")


def test_batch_norm_forgets_a_batch_that_is_no_number():
    _, watch = run(Model([1.0, 1.0, 1.0], audio={1: NAN}))
    assert equal(*watch.states[:2])


def test_a_loss_that_hides_what_batch_norm_took_up_is_left_out():
    """An infinite variance divides its channel to zero: loss and gradient are finite."""

    class Hiding(Model):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                self.norm.running_var.fill_(INF)
            return super().training_step(batch, batch_idx)

    _, watch = run(Hiding([1.0, 1.0, 1.0]))
    assert watch.skipped == [False, True, False] and equal(*watch.states[:2])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_changes_anything(name):
    _, watch = run(Model([1.0, NAN], optimizer=name, options={}))
    before, after = ({key: x for key, x in state.items() if not key.endswith("func_evals")} for state in watch.states)
    assert equal(before, after)  # but for LBFGS's number of looks


def test_a_bad_first_step_leaves_an_optimizer_that_can_go_on():
    for name in ("adan", "novograd"):
        _, watch = run(Model([NAN, 1.0, 1.0], optimizer=name, options={}))
        _, without = run(Model([1.0, 1.0], optimizer=name, options={}))
        assert watch.skipped == [True, False, False]
        assert watch.states[-1].keys() == without.states[-1].keys()


def test_a_norm_that_overflows_is_left_out():
    """1e25 squared is infinite: Adam would divide by it for ever."""
    _, watch = run(Model([1.0, 1e25, 1.0]))
    assert watch.skipped == [False, True, False] and equal(*watch.states[:2])


def test_the_schedule_goes_on():
    trainer, _ = run(Model([1.0, NAN, 1.0, 1.0]), max_epochs=3)
    assert trainer.global_step == 12
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)


def test_one_bad_batch_of_several_drops_the_step():
    _, watch = run(Model([1.0, 1.0, NAN, 1.0, 1.0, 1.0]), accumulate_grad_batches=2)
    assert equal(watch.states[1], watch.states[3])
    assert watch.skipped == [False, False, False, True, False, False]
    assert not equal(watch.states[3], watch.states[5])


def test_bfloat16_is_guarded_alike():
    _, watch = run(Model([1.0, NAN, 1.0]), precision="bf16-mixed")
    assert equal(*watch.states[:2]) and watch.skipped == [False, True, False]


# float16


class HalfOnCpu(MixedPrecision):
    """float16's loss scaling without its arithmetic, which CPUs lack for these layers."""

    def __init__(self, scale: float):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000))

    def forward_context(self):
        return torch.autocast("cpu", enabled=False)


class Overflowing(Model):
    """The gradient is finite only below a scale of 100."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        scale = self.trainer.precision_plugin.scaler.get_scale()
        return loss + Squeezed.apply(self.out.weight.sum()) if scale > self.limit else loss


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_the_search_for_a_scale_counts_as_nothing(options):
    model = Overflowing([1.0] * 6, options={"lr": 0.01} | options)
    model.limit = 100
    trainer, watch = run(model, FiniteSteps(max_in_a_row=0), plugins=[HalfOnCpu(1024.0)])
    assert watch.skipped == [True] * 4 + [False] * 2
    assert trainer.precision_plugin.scaler.get_scale() == 64
    assert trainer.callback_metrics["train_skipped_steps"] == 0


@pytest.mark.parametrize("options", [{}, {"fused": True}])
def test_with_a_scaler_a_loss_that_is_no_number_counts(options):
    model = Model([1.0, NAN, 1.0], options={"lr": 0.01} | options)
    trainer, watch = run(model, plugins=[HalfOnCpu(1024.0)])
    assert equal(*watch.states[:2]) and watch.skipped == [False, True, False]
    assert trainer.callback_metrics["train_skipped_steps"] == 1


def test_a_gradient_that_overflows_at_scale_one_counts():
    model = Overflowing([1.0] * 4)
    model.limit = 0.0
    with pytest.raises(ValueError, match="2 steps in a row"):
        run(model, FiniteSteps(max_in_a_row=1), plugins=[HalfOnCpu(2.0)])


# what is said


def test_the_batches_of_the_step_are_listed(tmp_path):
    run(Model([1.0, 1.0, 1.0, NAN]), FiniteSteps(tmp_path), accumulate_grad_batches=2)
    (entry,) = listed(tmp_path)
    assert (entry["epoch"], entry["step"], entry["loss"], entry["grad_norm"]) == (0, 1, "nan", "nan")
    assert entry["parameters"] == ["norm.weight", "norm.bias", "out.weight", "out.bias"]
    assert [batch["sample_ids"] for batch in entry["batches"]] == [["s4", "s5"], ["s6", "s7"]]
    assert math.isfinite(entry["batches"][0]["loss"]) and entry["batches"][1]["loss"] == "nan"


def test_only_parameters_with_a_bad_gradient_are_named(tmp_path):
    run(Model(["gradient"]), FiniteSteps(tmp_path))
    assert listed(tmp_path)[0]["parameters"] == ["out.weight"]


def test_the_loss_in_the_list_is_that_of_training(tmp_path):
    run(Model(["gradient"] * 2), FiniteSteps(tmp_path), accumulate_grad_batches=2)
    plain, _ = run(Model([1.0]))
    assert listed(tmp_path)[0]["batches"][0]["loss"] == pytest.approx(float(plain.callback_metrics["train_loss"]))


def test_a_line_that_a_power_cut_broke_is_closed(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"epoch": 0, "st', encoding="utf-8")
    run(Model([NAN]), FiniteSteps(tmp_path))
    _, whole = (tmp_path / FILE_NAME).read_text(encoding="utf-8").splitlines()
    assert json.loads(whole)["step"] == 0


def test_a_list_that_cannot_be_written_stops_nothing(tmp_path, log):
    (tmp_path / FILE_NAME).mkdir()
    trainer, _ = run(Model([NAN, 1.0]), FiniteSteps(tmp_path))
    assert trainer.global_step == 2 and "isn't complete" in log.text


def test_a_healthy_run_writes_no_list_and_counts_none(tmp_path):
    trainer, watch = run(Model([1.0] * 3), FiniteSteps(tmp_path))
    assert not list(tmp_path.iterdir()) and watch.skipped == [False] * 3
    assert trainer.callback_metrics["train_skipped_steps"] == 0


def test_the_count_is_in_the_loggers_file(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    run(Model([1.0, NAN, 1.0, 1.0]), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    header, *rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("train_skipped_steps")
    assert [float(row.split(",")[column]) for row in rows] == [0, 1, 1, 1]


# too many


def test_too_many_in_a_row_end_the_run_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="3 steps in a row") as error:
        run(Model([1.0, NAN, NAN, 1.0, NAN, NAN, NAN]), FiniteSteps(tmp_path, max_in_a_row=2))
    message = str(error.value)
    assert "\n" not in message and len(listed(tmp_path)) == 5
    for part in ("step 6", "learning rate 0.01,", "precision 32", "norm.weight", "s12", "weights and audio are finite"):
        assert part in message, part


@pytest.mark.parametrize("audio", [NAN, 1e30])
def test_bad_audio_is_named_as_the_cause(audio):
    with pytest.raises(ValueError, match="repair these samples") as error:
        run(Model([1.0, NAN], audio={1: audio}), FiniteSteps(max_in_a_row=0))
    assert f"peak {audio:.3g}" in str(error.value)


def test_bad_weights_are_named_as_the_cause():
    model = Model([1.0])
    model.out.bias.data.fill_(INF)
    with pytest.raises(ValueError, match=r"the weights aren't finite \(out.bias\)"):
        run(model, FiniteSteps(max_in_a_row=0))


def test_the_limit_must_make_sense():
    with pytest.raises(ValueError, match="max_skipped_steps_in_a_row=-1 must be at least 0"):
        FiniteSteps(max_in_a_row=-1)


def test_anomaly_detection_still_stops_at_the_operation():
    with pytest.raises(RuntimeError, match="returned nan values"):
        run(Model([1.0, NAN]), detect_anomaly=True)


# checkpoints


def fit_with_checkpoints(model: Model, guard: FiniteSteps, folder: Path, **options) -> None:
    checkpoints = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}", save_last=True)
    new_trainer(guard, checkpoints, enable_checkpointing=True, **options).fit(model)


def test_every_checkpoint_of_a_run_that_diverged_is_finite(tmp_path):
    with pytest.raises(ValueError, match="4 steps in a row"):
        fit_with_checkpoints(Model([1.0] + [NAN] * 5), FiniteSteps(max_in_a_row=3), tmp_path)
    files = sorted(tmp_path.glob("*.ckpt"))
    assert [file.stem for file in files] == ["last", "step=1", "step=2", "step=3", "step=4"]
    for file in files:
        content = torch.load(file, weights_only=True)
        numbers = flat(content["state_dict"]) | flat(content["optimizer_states"])
        assert all(torch.as_tensor(value).isfinite().all() for value in numbers.values())


def test_weights_that_overflow_are_not_saved(tmp_path):
    model = Model([1.0] * 3, optimizer="sgd", options={"lr": 3e38, "weight_decay": 100.0})
    with pytest.raises(ValueError, match="no checkpoint is saved"):
        fit_with_checkpoints(model, FiniteSteps(), tmp_path)
    assert not list(tmp_path.glob("*.ckpt"))


def test_the_count_goes_on_from_a_checkpoint(tmp_path):
    fit_with_checkpoints(Model([NAN] * 6), FiniteSteps(), tmp_path, max_steps=3)
    trainer = new_trainer(FiniteSteps(max_in_a_row=6), max_steps=6)
    trainer.fit(Model([NAN] * 6), ckpt_path=tmp_path / "step=3.ckpt")
    assert trainer.callback_metrics["train_skipped_steps"] == 6
    with pytest.raises(ValueError, match="4 steps in a row"):
        new_trainer(FiniteSteps(max_in_a_row=3)).fit(Model([NAN] * 6), ckpt_path=tmp_path / "step=3.ckpt")


# several ranks


class BadOnOneRank(Model):
    """Rank 1's second loss isn't finite though its gradient is; rank 0's gradient isn't in three later batches."""

    def training_step(self, batch, batch_idx):
        loss = TinyModel.training_step(self, batch, batch_idx)
        rank = self.trainer.global_rank
        if batch_idx == 1 and rank == 1:
            return loss + torch.tensor(NAN)
        if batch_idx in (3, 5, 6) and rank == 0:
            return loss + Squeezed.apply(self.out.weight.sum())
        return loss


def train_as_rank(rank: int, folder: Path) -> dict:
    """What a rank's run ended with."""
    model, watch = BadOnOneRank([1.0] * 7), Watch()
    trainer = new_trainer(
        FiniteSteps(folder, 1), watch, devices=2, strategy="ddp", use_distributed_sampler=False, gradient_clip_val=1.0
    )
    try:
        trainer.fit(model)
        end = "ran through"
    except ValueError as error:
        end = str(error)
    weights = {name: p.tolist() for name, p in model.named_parameters()}
    same = [equal(one, other) for one, other in zip(watch.states, watch.states[1:])]
    return {"end": end, "skipped": watch.skipped, "same": same, "weights": weights}


@pytest.mark.slow
def test_all_ranks_leave_out_the_same_steps(tmp_path):
    ends = two_ranks(train_as_rank, tmp_path)
    assert ends[0] == ends[1] and "2 steps in a row" in ends[0]["end"]
    assert ends[0]["skipped"] == [False, True, False, True, False, True]
    assert ends[0]["same"] == [True, False, True, False, True]
    batches = [[(batch["rank"], batch["loss"] == "nan") for batch in entry["batches"]] for entry in listed(tmp_path)]
    assert batches[0] == [(0, False), (1, True)] and len(batches) == 4


@pytest.mark.gpu
def test_float16_on_a_gpu_leaves_out_what_is_no_number():
    trainer, watch = run(Model([1.0, NAN, 1.0]), accelerator="gpu", precision="16-mixed")
    assert equal(*watch.states[:2]) and trainer.callback_metrics["train_skipped_steps"] == 1
