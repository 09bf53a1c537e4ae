"""Run a model or an encoder and note what it computes on the way, level by level, as `level/what` -> tensor.

The levels stand in the order of the computation, so the first one at which two implementations differ says where to
look. Steps and frames of padding are left out (set to 0): they carry nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from parts.batch_types import AudioNoiseBatch
from tools.parity.cases import LEVELS, SEED, Case, Levels, seed_everything
from tools.parity.trace import EVALUATION, TRAINING, Trace

BLOCKS_OF_A_FRAME = {"block_size": 1, "mask_prob": 0.5, "allow_overlap": True, "min_masks": 0, "max_mask_ratio": None}
FROZEN = "parameter/weights that are not trained"
STATISTICS = ("running_", "num_batches_tracked")  # last parts of their names begin so
FIRST_OF_TRAINING, FIRST_OF_STEPS = "training_length", "learning_rate"


def measure(
    case: Case,
    module: nn.Module,
    inputs: Levels,
    levels: Levels | None = None,
    trace: Trace | None = None,
    until: str = LEVELS[-1],
) -> Levels:
    """The levels of `case` up to `until`, computed by `module`, which it trains in the end.

    levels, trace: filled on the way, so that what was computed stays where something raises.
    """
    levels = {} if levels is None else levels
    computed = measure_model if case.is_model else measure_encoder
    computed(case, module, inputs, levels, trace or Trace(phases=()), until)
    for name in list(levels):
        if is_before(until, name.split("/")[0]):
            del levels[name]
    return levels


def is_before(level: str, other: str) -> bool:
    return LEVELS.index(level) < LEVELS.index(other)


def measure_encoder(
    case: Case, encoder: nn.Module, inputs: Levels, levels: Levels, trace: Trace, until: str = LEVELS[-1]
) -> None:
    """inputs: `features` (B, F, T), `feature_lengths` (B,)."""
    features = inputs["features"].clone().requires_grad_(True)
    lengths = inputs["feature_lengths"]
    for prefix, phase in (("", EVALUATION), ("training_", TRAINING)):
        if prefix and is_before(until, FIRST_OF_TRAINING):
            return
        encoder.train(bool(prefix))
        seed_everything(SEED)
        with watch(encoder, levels, prefix), trace.watch(encoder, phase):
            encoded, encoded_lengths = encoder(audio_signal=features, length=lengths.clone())[:2]
        encoded = without_padding(encoded, encoded_lengths, axis=2)
        levels[f"{prefix}length/steps"] = encoded_lengths
    loss = (encoded * torch.arange(encoded.numel()).cos().view(encoded.shape)).sum()  # any function without symmetry
    loss.backward()
    levels["input_gradient/features"] = without_padding(features.grad, lengths, axis=2)
    levels |= gradients(encoder) | batch_norm_statistics(encoder)


def measure_model(
    case: Case, model: nn.Module, inputs: Levels, levels: Levels, trace: Trace, until: str = LEVELS[-1]
) -> None:
    """inputs: `clean` and `noisy` (B, N) int16, `lengths` (B,), `masks` (1 + steps, B, T) uint8."""
    feed_masks(model, inputs["masks"][0])
    evaluate(case, model, inputs, levels, trace)
    levels["training_loss/validation_loss"] = validation_loss(model, inputs)  # both are of the recipe behind `forward`
    if is_before(until, FIRST_OF_TRAINING):
        return
    model.train()
    seed_everything(SEED)  # of attention contexts that are drawn
    with watch(model.encoder, levels, "training_"), trace.watch(model, TRAINING):
        loss = training_loss(model, inputs)
    loss.backward()
    levels["training_loss/loss"] = loss.detach()
    levels |= gradients(model) | batch_norm_statistics(model)
    if not is_before(until, FIRST_OF_STEPS):
        optimizer_steps(case, model, inputs, levels)


@torch.no_grad()
def evaluate(case: Case, model: nn.Module, inputs: Levels, levels: Levels, trace: Trace) -> None:
    model.eval()
    features, codes = [], []
    hooks = [
        model.preprocessor.register_forward_hook(lambda module, args, output: features.append(output)),
        model.quantizer.register_forward_hook(lambda module, args, output: codes.append(output[0])),
    ]
    try:
        with watch(model.encoder, levels, ""), trace.watch(model, EVALUATION):
            log_probs, lengths, masks, tokens = forward(model, inputs)
            levels["loss/loss"] = model.loss(masks=masks, decoder_outputs=log_probs, targets=tokens)
    finally:
        for hook in hooks:
            hook.remove()
        for name, (feature, feature_lengths) in zip(("clean", "noisy"), features):
            levels |= {f"feature/{name}": feature, f"length/frames_{name}": feature_lengths}
    levels["length/steps"] = lengths
    levels["token/tokens"] = without_padding(tokens, lengths, axis=1)
    levels["log_prob/log_probs"] = without_padding(log_probs, lengths, axis=1)
    if case.config["num_books"] == 1:  # NeMo 3.0.0 mixes the codes of several books
        levels["code/codes"] = without_padding(codes[0], lengths, axis=2)


def optimizer_steps(case: Case, model: nn.Module, inputs: Levels, levels: Levels) -> None:
    """A step for each mask but the first, with the optimizer and the schedule that `setup_optimization` sets up."""
    optimizer, scheduler = model.setup_optimization(optim_config=case.build_optim())
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses, rates = [], []
    for masks in inputs["masks"][1:]:
        feed_masks(model, masks)
        optimizer.zero_grad()
        loss = training_loss(model, inputs)
        loss.backward()
        losses.append(loss.item())
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if scheduler is not None:  # None: a constant rate
            scheduler["scheduler"].step()
    for index, of_group in enumerate(zip(*rates)):
        name = f"rates_{index}" if index else "rates"
        levels[f"learning_rate/{name}"] = torch.tensor(of_group, dtype=torch.float64)
    levels["step_loss/losses"] = torch.tensor(losses, dtype=torch.float64)
    levels |= movements(model, start)


def movements(model: nn.Module, start: Levels) -> Levels:
    """How far each trained parameter was moved, and the largest entry of how far each other weight was."""
    levels = {f"parameter/{name}": (p - start[name]).detach() for name, p in trained(model)}
    learning = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    others = {
        name: tensor
        for name, tensor in sorted(model.state_dict().items())
        if name not in learning
        and not name.startswith("preprocessor.")
        and not name.startswith(STATISTICS, name.rfind(".") + 1)
    }
    moved = [(tensor.double() - start[name].double()).abs().max() for name, tensor in others.items()]
    return levels | {FROZEN: torch.stack(moved)} if moved else levels


def forward(model: nn.Module, inputs: Levels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log_probs, encoded_len, masks, tokens; the denoising model hears the noisy speech, the plain one the clean."""
    signals = {"input_signal": inputs["clean"] / 32768, "input_signal_length": inputs["lengths"].clone()}
    if "Denoise" in type(model).__name__:
        signals |= {
            "noisy_input_signal": inputs["noisy"] / 32768,
            "noisy_input_signal_length": inputs["lengths"].clone(),
            "noise_signal": (inputs["noisy"] - inputs["clean"]) / 32768,
            "noise_signal_length": inputs["lengths"].clone(),
        }
    return model(**signals, apply_mask=True)


def training_loss(model: nn.Module, inputs: Levels) -> Tensor:
    """What training minimises: what Lightning gets of our `training_step`, or the loss of NeMo's recipe."""
    if is_ours(model):
        with without_logging(model):
            return model.training_step(batch_of(inputs, seeds=True))
    log_probs, lengths, masks, tokens = forward(model, inputs)
    return model.loss(masks=masks, decoder_outputs=log_probs, targets=tokens, decoder_lengths=lengths)


@torch.no_grad()
def validation_loss(model: nn.Module, inputs: Levels) -> Tensor:
    """The `val_loss` of a validation of one batch."""
    batch = batch_of(inputs)
    if is_ours(model):
        with mock.patch.object(model, "logged_names", lambda stage, name, dataloader_idx: [name]):
            model.validation_step(batch)
        return torch.tensor(model._means.pop()["val_loss"], dtype=torch.float64)
    is_denoising = "Denoise" in type(model).__name__
    given = batch if is_denoising else (batch.audio, batch.audio_len)
    return model.inference_pass(given, 0, apply_mask=True)["val_loss"].double()


def is_ours(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("nemo.")


@contextmanager
def without_logging(model: nn.Module) -> Iterator[None]:
    """Inside, `training_step` runs without a trainer, and without an optimizer where there is none yet."""
    optimizer = model._optimizer or torch.optim.SGD(model.parameters())  # its rate is logged
    with mock.patch.object(model, "log_dict", lambda *args, **options: None), \
            mock.patch.object(model, "_optimizer", optimizer):  # fmt: skip
        yield


def batch_of(inputs: Levels, seeds: bool = False) -> AudioNoiseBatch:
    """seeds: of the samples too, which training must not heed."""
    clean, noisy = inputs["clean"] / 32768, inputs["noisy"] / 32768
    lengths = [inputs["lengths"].clone() for _ in range(3)]
    return AudioNoiseBatch(
        audio=clean, audio_len=lengths[0], noise=noisy - clean, noise_len=lengths[1],
        noisy_audio=noisy, noisy_audio_len=lengths[2], seeds=torch.arange(len(clean)) if seeds else None,
    )  # fmt: skip


def feed_masks(model: nn.Module, is_masked: Tensor) -> None:
    """Let the model mask exactly these frames (B, T), or in post_conv mode each step as the frame where it begins.

    Ours draws them in its own `forward`: blocks of one frame begin where `torch.rand` gives 0. NeMo's ways to draw
    differ between versions, so that its forward is replaced by what all of them make of a mask.
    """
    masking = model.mask_processor
    own_forward = type(masking).forward

    def mask(input_feats: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        steps = input_feats.shape[2]
        chosen = is_masked[:, torch.arange(steps) * is_masked.shape[1] // steps]  # (B, T) or (B, S)
        if is_ours(masking):
            with (
                mock.patch.multiple(masking, **BLOCKS_OF_A_FRAME),
                mock.patch("torch.rand", lambda *_, **__: 1.0 - chosen),
            ):
                return own_forward(masking, input_feats=input_feats, input_lengths=input_lengths)
        masks = chosen * (torch.arange(steps) < input_lengths[:, None])
        masks = masks[:, None].to(input_feats.dtype).expand_as(input_feats)
        return torch.where(masks > 0, masking.mask_embedding[None, :, None], input_feats), masks

    masking.forward = mask


@contextmanager
def watch(encoder: nn.Module, levels: Levels, prefix: str) -> Iterator[None]:
    """Inside, note the outputs of the subsampling, of each layer and of `encoder` itself."""

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update({name: output})

    def note_projected(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Without subsampling NeMo's layer gives no lengths: those of the frames hold."""
        projected = output if isinstance(output, Tensor) else output[0]
        seen["subsampled"] = projected, frames[0]

    seen: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
    frames: list[Tensor] = []
    if isinstance(encoder.pre_encode, nn.Linear):
        hooks = [
            encoder.register_forward_pre_hook(
                lambda module, args, given: frames.append(given["length"]), with_kwargs=True
            ),
            encoder.pre_encode.register_forward_hook(note_projected, with_kwargs=True),
        ]
    else:
        hooks = [encoder.pre_encode.register_forward_hook(note("subsampled"))]
    hooks += [layer.register_forward_hook(note(f"{i}")) for i, layer in enumerate(encoder.layers)]
    hooks.append(encoder.register_forward_hook(note("encoded")))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if "subsampled" in seen:
            levels |= watched(seen, prefix)


def watched(seen: dict[str, Tensor | tuple[Tensor, Tensor]], prefix: str) -> Levels:
    subsampled, lengths = seen.pop("subsampled")
    encoded = seen.pop("encoded", None)  # not there where something raised
    levels = {
        f"{prefix}subsampled/length": lengths,
        f"{prefix}subsampled/states": without_padding(subsampled, lengths, axis=1).detach(),
    }
    for name, states in seen.items():
        if states.shape[1] == subsampled.shape[1]:  # else behind a reduction, which the outputs of the encoder show
            levels[f"{prefix}layer/{name}"] = without_padding(states, lengths, axis=1).detach()
    if encoded is not None:
        levels[f"{prefix}encoded/states"] = without_padding(*encoded[:2], axis=2).detach()
    return levels


def without_padding(x: Tensor, lengths: Tensor, axis: int) -> Tensor:
    """Zeros on `axis` from each row's length on."""
    is_padding = torch.arange(x.shape[axis]) >= lengths[:, None]
    shape = [len(x), *(x.shape[axis] if i == axis else 1 for i in range(1, x.dim()))]
    return x.masked_fill(is_padding.view(shape), 0)


def gradients(module: nn.Module) -> Levels:
    return {f"gradient/{name}": p.grad.clone() for name, p in trained(module) if p.grad is not None}


def batch_norm_statistics(module: nn.Module) -> Levels:
    return {f"batch_norm/{name}": value.clone() for name, value in module.state_dict().items() if "running_" in name}


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that are trained; of several names of one, the first in the alphabet."""
    names: dict[nn.Parameter, str] = {}
    for name, parameter in sorted(module.named_parameters(remove_duplicate=False)):
        if parameter.requires_grad:
            names.setdefault(parameter, name)
    return [(name, parameter) for parameter, name in names.items()]
