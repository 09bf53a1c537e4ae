from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.utils.tiny_run import Batch, TinyModel
from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.training.ema import EMA, averaged_state_dict, check_averages
from utils.training.finite_steps import FiniteSteps


class Model(TinyModel):
    """The same batches in every epoch and run; a frozen layer, one in float64 and one in bfloat16; big steps."""

    def __init__(self, batches: int = 4):
        super().__init__(batches)
        self.frozen = nn.Linear(3, 3, dtype=torch.float64).requires_grad_(False)
        self.in_float64 = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.in_bfloat16 = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + (self.in_float64.float() * self.in_bfloat16.float()).sum() / 3

    def _loader(self, count: int) -> DataLoader:
        generator = torch.Generator().manual_seed(count)
        items = [Batch(torch.randn(2, 3, generator=generator), torch.tensor([1, 1])) for _ in range(count)]
        return DataLoader(items, batch_size=None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(Callback):
    """The weights before the first step and after each step of the optimizer, and those that validation saw."""

    def __init__(self):
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.trained.append(weights(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == len(self.trained):
            self.trained.append(weights(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.validated.append(weights(pl_module))


def weights(module: LightningModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def fit(ema: EMA | None, *callbacks: Callback, model: Model | None = None, ckpt_path=None, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    defaults = {"accelerator": "cpu", "devices": 1, "max_steps": 4, "enable_checkpointing": False}
    seed_everything(1)
    trainer = Trainer(**quiet | defaults | options, callbacks=[*([ema] if ema else []), *callbacks])
    trainer.fit(model or Model(), ckpt_path=ckpt_path)
    return trainer


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# what is averaged, and when


@pytest.mark.parametrize("cpu_offload", [False, True])
@pytest.mark.parametrize(("every_n_steps", "accumulate"), [(1, 1), (3, 1), (2, 2)])
def test_the_average_follows_its_formula(every_n_steps, accumulate, cpu_offload):
    ema, watch = EMA(0.9, every_n_steps=every_n_steps, cpu_offload=cpu_offload), Watch()
    fit(ema, watch, model=Model(batches=16), max_steps=8, accumulate_grad_batches=accumulate)
    expected = {
        name: weight.to(ema._averages[name].dtype) for name, weight in watch.trained[0].items() if "frozen" not in name
    }
    for trained in watch.trained[1::every_n_steps]:
        for name, average in expected.items():
            expected[name] = (average * 0.9).add_(trained[name], alpha=1.0 - 0.9)
    assert len(watch.trained) == 9
    assert_same(ema._averages, expected)


def test_frozen_weights_stay_and_half_precision_ones_are_averaged_in_float32():
    ema, watch = EMA(0.999), Watch()
    trainer = fit(ema, watch, val_check_interval=4)
    assert {name: average.dtype for name, average in ema._averages.items()} == {
        "in_float64": torch.float64,
        "in_bfloat16": torch.float32,
        "norm.weight": torch.float32,
        "norm.bias": torch.float32,
        "out.weight": torch.float32,
        "out.bias": torch.float32,
    }
    assert ema._averages["in_bfloat16"] < 1.0
    frozen = {name: weight for name, weight in weights(trainer.lightning_module).items() if name.startswith("frozen")}
    assert_same({name: watch.validated[0][name] for name in frozen}, frozen)


@pytest.mark.parametrize("every_n_steps", [1, 2])
def test_a_step_that_was_skipped_does_not_count(every_n_steps):
    class Spoilt(Model):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (float("nan") if batch_idx == 1 else 1.0)

    ema, watch = EMA(0.5, every_n_steps=every_n_steps), Watch()
    fit(ema, watch, FiniteSteps(), model=Spoilt())
    expected = watch.trained[0]["out.weight"]
    taken = [trained["out.weight"] for step, trained in enumerate(watch.trained) if step not in (0, 2)]
    for trained in taken[::every_n_steps]:
        expected = expected * 0.5 + trained * 0.5
    assert torch.equal(watch.trained[1]["out.weight"], watch.trained[2]["out.weight"])
    torch.testing.assert_close(ema._averages["out.weight"], expected)


# evaluation


@pytest.mark.parametrize("original", [False, True])
def test_validation_takes_the_average_unless_told_otherwise(original):
    ema, watch = EMA(0.5, validate_original_weights=original), Watch()
    trainer = fit(ema, watch, val_check_interval=4)
    seen = watch.validated[0]
    assert torch.equal(seen["out.weight"], watch.trained[-1]["out.weight"] if original else ema._averages["out.weight"])
    assert_same(weights(trainer.lightning_module), watch.trained[-1])


def test_training_is_the_same_with_an_average_as_without():
    averaged, plain = Watch(), Watch()
    fit(EMA(0.5), averaged, val_check_interval=1)
    fit(None, plain, val_check_interval=1)
    assert_same(averaged.trained[-1], plain.trained[-1])
    assert not torch.equal(averaged.validated[-1]["out.weight"], plain.validated[-1]["out.weight"])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_validation_that_fails_leaves_the_weights_as_trained(error, tmp_path):
    """Also in the checkpoint that is saved then; the averages are in it too."""

    class Fails(Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
            trainer.save_checkpoint(tmp_path / "within.ckpt")
            raise error("now")

    class SavesAfter(Callback):
        def on_exception(self, trainer, pl_module, exception) -> None:
            trainer.save_checkpoint(tmp_path / "after.ckpt")

    ema, watch, model = EMA(0.5), Watch(), Model()
    with pytest.raises((error, SystemExit)):
        fit(ema, watch, Fails(), SavesAfter(), model=model, val_check_interval=2)
    assert_same(weights(model), watch.trained[-1])
    for name in ("within", "after"):
        saved = load_checkpoint(tmp_path / f"{name}.ckpt")
        assert_same({key: saved["state_dict"][key] for key in watch.trained[-1]}, watch.trained[-1])
        assert_same(saved["callbacks"]["EMA"]["weights"], ema._averages)


def test_test_takes_the_average_too():
    class Tested(Model):
        def test_step(self, batch: Batch, batch_idx: int) -> None:
            self.seen = weights(self)

        def test_dataloader(self) -> DataLoader:
            return self._loader(1)

    ema, model = EMA(0.5), Tested()
    fit(ema, model=model).test(model, verbose=False)
    assert torch.equal(model.seen["out.weight"], ema._averages["out.weight"])
    assert not torch.equal(model.out.weight, ema._averages["out.weight"])


def test_averages_in_place_may_be_asked_for_twice():
    ema = EMA(0.5)
    model = fit(ema).lightning_module
    trained = weights(model)
    with pytest.raises(RuntimeError, match="here"), ema.averaged(model):
        with ema.averaged(model):
            assert torch.equal(model.out.weight, ema._averages["out.weight"])
        assert torch.equal(model.out.weight, ema._averages["out.weight"])
        raise RuntimeError("here")
    assert_same(weights(model), trained)


# going on


@pytest.mark.parametrize("every_n_steps", [1, 3])
def test_a_resumed_run_has_the_averages_of_one_without_a_break(tmp_path, every_n_steps):
    whole, first, second = (EMA(0.9, every_n_steps=every_n_steps) for _ in range(3))
    fit(whole, max_steps=8)
    fit(first).save_checkpoint(tmp_path / "x.ckpt")
    fit(second, ckpt_path=tmp_path / "x.ckpt", max_steps=8)
    assert_same(second._averages, whole._averages)


def test_without_averages_in_the_checkpoint_they_start_from_its_weights(tmp_path, log):
    fit(None).save_checkpoint(tmp_path / "x.ckpt")
    ema, watch = EMA(1.0), Watch()
    fit(ema, watch, ckpt_path=tmp_path / "x.ckpt", max_steps=8)
    assert "the checkpoint holds no moving average" in log.text
    assert torch.equal(ema._averages["out.weight"], watch.trained[0]["out.weight"])


def test_averages_that_end_with_a_checkpoint_are_said(tmp_path, log):
    trainer = fit(EMA(0.9))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    check_averages(trainer, load_checkpoint(tmp_path / "x.ckpt"))
    assert "which ends here" not in log.text
    check_averages(fit(None), load_checkpoint(tmp_path / "x.ckpt"))
    assert "holds a moving average of the weights, which ends here" in log.text


def test_a_file_of_averages_alone_is_refused():
    with pytest.raises(ValueError, match="holds averaged weights only: go on from the checkpoint beside it"):
        check_averages(SimpleNamespace(ckpt_path="x-EMA.ckpt"), {"optimizer_states": [{"ema": []}]})


def test_the_options_of_the_config_hold_and_a_change_is_said(tmp_path, log):
    fit(EMA(0.9)).save_checkpoint(tmp_path / "x.ckpt")
    changed = EMA(1.0)
    fit(changed, ckpt_path=tmp_path / "x.ckpt", max_steps=8)
    assert "exp_manager.ema.decay is now 1.0; it was 0.9 in the checkpoint" in log.text
    assert_same(changed._averages, load_checkpoint(tmp_path / "x.ckpt")["callbacks"]["EMA"]["weights"])


def test_averages_are_read_from_a_checkpoint_under_all_names_of_a_weight(tmp_path):
    class Tied(Model):
        def __init__(self):
            super().__init__()
            self.same = self.out

    ema = EMA(0.5)
    trainer = fit(ema, model=Tied())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = averaged_state_dict(load_checkpoint(tmp_path / "x.ckpt"))
    with ema.averaged(trainer.lightning_module):
        assert_same(state, trainer.lightning_module.state_dict())
    assert torch.equal(state["same.weight"], ema._averages["out.weight"])
    assert averaged_state_dict({"state_dict": {}}) is None


def test_a_weight_with_two_names_is_saved_as_trained_under_both(tmp_path):
    class Tied(Model):
        def __init__(self):
            super().__init__()
            self.same = self.out

    ema = EMA(0.5)
    trainer = fit(ema, model=Tied())
    trained = weights(trainer.lightning_module)
    with ema.averaged(trainer.lightning_module):
        trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = load_checkpoint(tmp_path / "x.ckpt")["state_dict"]
    assert torch.equal(state["same.weight"], trained["out.weight"])


# several processes


class SameOnAllRanks(Callback):
    def on_train_end(self, trainer, pl_module) -> None:
        ema = next(callback for callback in trainer.callbacks if isinstance(callback, EMA))
        everywhere = trainer.strategy.all_gather(ema._averages["out.weight"])
        assert len(everywhere) == 2 and torch.equal(everywhere[0], everywhere[1])
        assert not torch.equal(everywhere[0], pl_module.out.weight)


@pytest.mark.slow
def test_all_ranks_have_the_same_average(tmp_path):
    saved = ModelCheckpoint(tmp_path, save_last=True, monitor=None)
    options = {"devices": 2, "strategy": "ddp_spawn", "enable_checkpointing": True}
    fit(EMA(0.5), SameOnAllRanks(), saved, **options)
    assert load_checkpoint(tmp_path / "last.ckpt")["callbacks"]["EMA"]["weights"]


# mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decay": 1.5}, r"exp_manager\.ema\.decay=1\.5 must be between 0 and 1"),
        ({"decay": 0.9, "every_n_steps": 0}, r"exp_manager\.ema\.every_n_steps=0 must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        EMA(**options)


def test_weights_that_are_split_over_devices_are_refused():
    with pytest.raises(ValueError, match=r"exp_manager\.ema\.enable=true .* object splits; use trainer\.strategy=ddp"):
        EMA(0.9).setup(SimpleNamespace(strategy=object()), None, "fit")
