"""What the model must guess: masks drawn with one torch seed, what is put in their place, how they are distributed.

Single masks are compared exactly: both sides ask torch's generator for the same numbers. The distribution over many
utterances is compared by a two-sample test, which also covers the masks that this project draws from a seed per sample.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from tools.parity.aspects.mask_rows import FEWER, IN_TRAINING, OVERLAP, OWN, RATIO, SEEDED, MaskPair
from tools.parity.aspects.mask_statistics import draws_for, lengths_to_draw, statistics_of
from tools.parity.cases import SEED, Levels, seed_everything
from tools.parity.levels import batch_of, forward
from tools.parity.records import Measured, Record
from tools.parity.rows import Row
from tools.parity.side import Side

NAME = "masks"
REPEATS = 3  # utterances of each length whose masks are compared one by one
LONGEST_EXACT = 320  # frames, which keeps records small
SAMPLES = {"nemo": SEED + 1, "ours": SEED + 2}  # seeds; the test wants independent samples
ROOM = 8  # frames behind the longest utterance, at least: NeMo 2.6 masks as many, however short an utterance is
APART = 1_000_000  # between the seeds per sample of two lengths


def measure(side: Side) -> Measured:
    """Masks of the model's own masking module, overlapping and not, whatever the config says."""
    model = side.build()
    tensors, masking = drawn_by_model(side, model), copy.deepcopy(model.mask_processor)
    settings = {name: getattr(masking, name) for name in ("block_size", "mask_prob", "allow_overlap")}
    lengths = lengths_to_draw(masking.block_size, per_second(side))
    own = {} if side.is_nemo else {"min_masks": masking.min_masks, "max_mask_ratio": masking.max_mask_ratio}
    for variant in variants(own):
        set_options(masking, own, variant)
        for name, allow_overlap in OVERLAP.items():
            masking.allow_overlap = allow_overlap
            in_training = {f"{IN_TRAINING}masks": exact(masking.train(), lengths)["masks"]}
            drawn = (
                in_training
                | exact(masking.eval(), lengths)
                | statistics(side, masking, lengths, fewer=variant == FEWER)
            )
            tensors |= {f"{variant}{name}/{what}": tensor for what, tensor in drawn.items()}
    if side.is_nemo:
        settings["ratio_effect"] = ratio_effect(masking, lengths)
    unit = "steps" if is_post_conv(side) else "frames"
    return Measured(tensors, settings | {"lengths": lengths, "unit": unit, "own": own})


def variants(own: dict) -> list[str]:
    """What is drawn: as NeMo 3.0.0 does, and what this project's own options, where they are set, make of it."""
    ruled = own.get("max_mask_ratio") is not None
    return ["", *[RATIO, FEWER] * ruled, *[OWN] * bool(own.get("min_masks"))]


def set_options(masking: nn.Module, own: dict, variant: str) -> None:
    if own:
        masking.min_masks = own["min_masks"] if variant == OWN else 0
        masking.max_mask_ratio = own["max_mask_ratio"] if variant in (RATIO, OWN) else None


def is_post_conv(side: Side) -> bool:
    return side.case.config.get("mask_position") == "post_conv"


def per_second(side: Side) -> float:
    """Frames, or in post_conv mode steps, of a second of audio."""
    config = side.case.config
    rate = 1 / config["preprocessor"].get("window_stride", 0.01)
    return rate / config["encoder"]["subsampling_factor"] if is_post_conv(side) else rate


class Drawn(Exception):
    """Ends a forward pass behind the mask."""


def drawn_by_model(side: Side, model: nn.Module) -> Levels:
    """The mask that a forward pass draws, and that a training step draws, in evaluation and in training:
    `*/masks` (B, T) and `*/lengths` (B,)."""
    drawn: Levels = {}

    def note(module: nn.Module, args: tuple, kwargs: dict, output: tuple[Tensor, Tensor]) -> None:
        drawn.update(lengths=(args[1:2] or (kwargs["input_lengths"],))[0], masks=output[1][:, 0] > 0)
        raise Drawn

    levels: Levels = {}
    passes: dict[str, Callable] = {"forward": lambda: forward(model, side.job.inputs)}
    passes["step"] = passes["forward"] if side.is_nemo else lambda: model.step(batch_of(side.job.inputs, seeds=True))
    hook = model.mask_processor.register_forward_hook(note, with_kwargs=True)
    for prefix in ("", IN_TRAINING):
        model.train(bool(prefix))
        for name, run in passes.items():
            seed_everything(SEED)
            drawn.clear()
            with contextlib.suppress(Drawn), torch.no_grad():
                run()
            levels |= {f"{prefix}{name}/{what}": tensor.clone() for what, tensor in drawn.items()}
    hook.remove()
    return levels


@torch.no_grad()
def exact(masking: nn.Module, lengths: list[int]) -> Levels:
    """One batch, drawn with one torch seed.

    lengths: (B,).  masks: (B, T) bool.  put_in: (F,) at the first masked frame.  wrong: () values, of the masked
    features or of the masks, that are neither the embedding at a masked frame nor what came in at another.
    """
    rows = torch.tensor([length for length in lengths if length <= LONGEST_EXACT] * REPEATS)
    generator = torch.Generator().manual_seed(SEED)
    width, features = int(rows.max()) + max(masking.block_size, ROOM), len(masking.mask_embedding)
    x = torch.randn(len(rows), features, width, generator=generator)
    torch.manual_seed(SEED)
    masked, masks = masking(input_feats=x.clone(), input_lengths=rows.clone())
    is_masked = masks[:, 0] > 0
    right = torch.where(is_masked.unsqueeze(1), masking.mask_embedding.view(1, -1, 1), x)
    wrong = (masked != right).sum() + (masks != is_masked.unsqueeze(1)).sum()
    put_in = masked.transpose(1, 2)[is_masked][:1].flatten()
    return {"lengths": rows, "masks": is_masked, "put_in": put_in, "wrong": wrong}


def ratio_effect(masking: nn.Module, lengths: list[int]) -> float:
    """Share of frames that NeMo's `max_mask_ratio` decides on: masked otherwise by 0.2 than by 0.8."""
    drawn = []
    for ratio in (0.8, 0.2):
        masking.max_mask_ratio = ratio
        drawn.append(exact(masking, lengths)["masks"])
    return (drawn[0] != drawn[1]).double().mean().item()


def statistics(side: Side, masking: nn.Module, lengths: list[int], fewer: bool) -> Levels:
    """`statistics` (L, 2, K) and `beyond` (L,), masked frames behind the end; ours also from seeds per sample."""
    narrow = copy.deepcopy(masking)
    narrow.mask_embedding = nn.Parameter(masking.mask_embedding[:1].detach().clone(), requires_grad=False)
    levels: Levels = {}
    for prefix in [""] if side.is_nemo else ["", SEEDED]:
        samples = [
            sample(narrow, length, SAMPLES[side.name] + row, fewer, bool(prefix)) for row, length in enumerate(lengths)
        ]
        levels[f"{prefix}statistics"] = torch.stack(
            [statistics_of(masks, length, masking.block_size) for masks, length in zip(samples, lengths)]
        )
        levels[f"{prefix}beyond"] = torch.stack([masks[:, length:].sum() for masks, length in zip(samples, lengths)])
    return levels


@torch.no_grad()
def sample(masking: nn.Module, length: int, seed: int, fewer: bool, seeded: bool) -> Tensor:
    """(N, T) bool: masks of N utterances of a length, in a batch at least a block wider.

    fewer: masks for one frame less, so that no block begins at the last place where one fits.
    """
    draws = draws_for(length)
    torch.manual_seed(seed)
    x = torch.zeros(draws, 1, length + max(masking.block_size, ROOM))
    lengths = torch.full((draws,), length - int(fewer))
    seeds = masking.seeded(seed * APART + torch.arange(draws)) if seeded else contextlib.nullcontext()
    with seeds:
        return masking(input_feats=x, input_lengths=lengths)[1][:, 0] > 0


def compare(ours: Record, nemo: Record) -> Iterator[Row]:
    pair = MaskPair(ours.measured[NAME], nemo.measured[NAME], nemo.origin.get("nemo_version", ""))
    yield from pair.rows()
