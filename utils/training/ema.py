"""A moving average of the weights: kept beside them in training, in their place for validation and `.nemo` files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn import Parameter

from utils.checkpoint_files.checkpoint_file import load_checkpoint
from utils.logging import logger
from utils.training.finite_steps import step_was_skipped

CPU = torch.device("cpu")
NEMO_AVERAGE = "-EMA.ckpt"  # how the name of NeMo's second file ends
HALF = (torch.float16, torch.bfloat16)


class EMA(Callback):
    """Exponential moving average of the weights: average = decay * average + (1 - decay) * weight.

    decay: in [0, 1]; 0.999 looks back over about 1,000 updates.
    validate_original_weights: validate and test the weights as trained, not their average.
    every_n_steps: steps of the optimizer from one update to the next; the first update follows step 1, then 1 + n.
    cpu_offload: keep the average in the CPU's memory; each update then waits for the copy.

    The numbers are those of NeMo 3.0.0's EMA: it starts at the weights before the first step, buffers (the statistics
    of batch norms) aren't averaged, and steps that were skipped, for gradients that aren't finite, don't count.
    Different from NeMo 3.0.0: the average is part of the checkpoint, where NeMo writes a second file, `*-EMA.ckpt`;
    frozen parameters are left alone, where NeMo's rounding moves them; the average of half-precision weights is
    float32, where NeMo's own, in bfloat16, stands still at a decay of 0.999; a resumed run takes decay and
    every_n_steps from its config, not from the checkpoint.
    Raises ValueError, in one line, for values out of range and for strategies that split the weights over devices.
    """

    def __init__(
        self,
        decay: float,
        validate_original_weights: bool = False,
        every_n_steps: int = 1,
        cpu_offload: bool = False,
    ):
        if not 0 <= decay <= 1:
            raise ValueError(f"exp_manager.ema.decay={decay} must be between 0 and 1")
        if every_n_steps < 1:
            raise ValueError(f"exp_manager.ema.every_n_steps={every_n_steps} must be at least 1")
        self.decay, self.every_n_steps = decay, every_n_steps
        self.validate_original_weights, self.cpu_offload = validate_original_weights, cpu_offload
        self._averages: dict[str, Tensor] = {}  # by the parameter's name
        self._training: dict[Parameter, Tensor] = {}  # the weights as trained, while the averages are in their place
        self._steps = 0  # of the optimizer, since the average began
        self._global_step = 0  # the last one seen

    # training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise ValueError(
                f"exp_manager.ema.enable=true can't average weights that {type(trainer.strategy).__name__} splits; "
                "use trainer.strategy=ddp"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._global_step = trainer.global_step
        if self._global_step > 0 and not self._averages:
            logger.warning("the checkpoint holds no moving average of the weights: it starts from the weights there")
        self._follow(pl_module)
        used_for = ".nemo files" if self.validate_original_weights else "validation, test and .nemo files"
        logger.info("a moving average of the weights (decay %s) is used for %s", self.decay, used_for)

    def _follow(self, pl_module: LightningModule) -> None:
        """Give every parameter that is trained an average, where it is updated."""
        for name, parameter in pl_module.named_parameters():
            if name in self._averages or parameter.requires_grad:
                start = self._averages.get(name, parameter)
                dtype = torch.float32 if parameter.dtype in HALF else parameter.dtype
                self._averages[name] = start.detach().to(self._place(parameter), dtype, copy=True)

    def _place(self, parameter: Parameter) -> torch.device:
        return CPU if self.cpu_offload else parameter.device

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if trainer.global_step == self._global_step:
            return  # gradients are being accumulated
        self._global_step = trainer.global_step
        if step_was_skipped(trainer):
            return
        if self._steps % self.every_n_steps == 0:
            self.update(pl_module)
        self._steps += 1

    @torch.no_grad()
    def update(self, pl_module: LightningModule) -> None:
        """Move the averages towards the weights."""
        parameters = dict(pl_module.named_parameters())
        averages = list(self._averages.values())
        weights = [parameters[name].to(average.device, average.dtype) for name, average in self._averages.items()]
        torch._foreach_mul_(averages, self.decay)
        torch._foreach_add_(averages, weights, alpha=1.0 - self.decay)

    # the averages in the place of the weights

    @contextmanager
    def averaged(self, pl_module: LightningModule) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again after, also after an error. May be nested."""
        if self._training:
            yield
            return
        try:
            self._put_in(pl_module)
            yield
        finally:
            self._take_out()

    @torch.inference_mode(False)  # Lightning validates in inference mode, whose tensors stay second-class
    @torch.no_grad()
    def _put_in(self, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        pairs = [(parameters[name], average) for name, average in self._averages.items()]
        self._training = {weight: weight.detach().to(self._place(weight), copy=True) for weight, _ in pairs}
        for weight, average in pairs:
            weight.copy_(average)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _take_out(self) -> None:
        for weight, trained in self._training.items():
            weight.copy_(trained)
        self._training = {}

    def _start_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.validate_original_weights and not self._training:
            self._put_in(pl_module)

    def _end_evaluation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_out()

    on_validation_start = on_test_start = _start_evaluation
    on_validation_end = on_test_end = _end_evaluation

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._take_out()

    # checkpoints

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """Before `load_state_dict`: of NeMo's checkpoints the averages are in another file, beside it."""
        path = Path(str(trainer.ckpt_path).removesuffix(".ckpt") + NEMO_AVERAGE)
        states = checkpoint.get("callbacks", {})
        if self.state_key in states or not path.is_file():
            return
        file = load_checkpoint(path, needs_configs=False)
        (optimizer,) = file["optimizer_states"]
        trained = [name for name, parameter in pl_module.named_parameters() if parameter.requires_grad]
        states[self.state_key] = {
            "decay": optimizer["decay"],
            "every_n_steps": optimizer["every_n_steps"],
            "steps": optimizer["current_step"],
            "weights": {name: file["state_dict"][name] for name in trained},
        }
        logger.info("the moving average of the weights goes on from %s", path)

    def state_dict(self) -> dict:
        options = {"decay": self.decay, "every_n_steps": self.every_n_steps}
        return {**options, "steps": self._steps, "weights": dict(self._averages)}

    def load_state_dict(self, state_dict: dict) -> None:
        for key in ("decay", "every_n_steps"):
            if state_dict[key] != getattr(self, key):
                logger.warning(
                    "exp_manager.ema.%s is now %s; it was %s in the checkpoint",
                    key,
                    getattr(self, key),
                    state_dict[key],
                )
        self._steps, self._averages = state_dict["steps"], dict(state_dict["weights"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        """What is saved in the middle of a validation (SIGTERM, Ctrl-C) holds the weights as trained all the same."""
        for name, parameter in pl_module.named_parameters(remove_duplicate=False):
            if parameter in self._training:
                checkpoint["state_dict"][name] = self._training[parameter]


def ema_of(trainer: Trainer) -> EMA | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)


def check_averages(trainer: Trainer, checkpoint: dict) -> None:
    """Say that a run goes on from a checkpoint with averages and keeps none.

    Raises ValueError for NeMo's `*-EMA.ckpt`: it lacks the weights as trained.
    """
    if any("ema" in state for state in checkpoint.get("optimizer_states", ())):
        raise ValueError(
            f"{trainer.ckpt_path} holds averaged weights only: go on from the checkpoint beside it, without -EMA; "
            "the averages are then read from this one; or start anew with init_from_ptl_ckpt"
        )
    if averaged_state_dict(checkpoint) is not None and ema_of(trainer) is None:
        logger.warning("the checkpoint holds a moving average of the weights, which ends here: exp_manager.ema is off")


@contextmanager
def averaged_weights(trainer: Trainer) -> Iterator[bool]:
    """The trainer's model has averaged weights inside, if the run keeps some: then True is given."""
    ema = ema_of(trainer)
    if ema is None:
        yield False
        return
    with ema.averaged(trainer.lightning_module):
        yield True


def averaged_state_dict(checkpoint: dict) -> dict[str, Tensor] | None:
    """The state dict of a checkpoint with the averaged weights in place of those as trained; None without averages."""
    weights = (checkpoint.get("callbacks", {}).get(EMA.__qualname__) or {}).get("weights")
    if not weights:
        return None
    state = checkpoint["state_dict"]
    averages = {_storage(state[name]): average.to(state[name].dtype) for name, average in weights.items()}
    return {name: averages.get(_storage(tensor), tensor) for name, tensor in state.items()}


def _storage(tensor: Tensor) -> tuple[int, torch.Size]:
    """Tied parameters have several names in a state dict and one among the averages."""
    return tensor.data_ptr(), tensor.shape
