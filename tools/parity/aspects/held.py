"""What built models hold of their options, where both sides keep it under one name: an argument that a constructor
takes and forgets shows here."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

from tools.parity.aspects.constructors import Arguments, as_json
from tools.parity.aspects.options import LEVEL, compare_value
from tools.parity.cases import SEED, seed_everything
from tools.parity.rows import KNOWN, Row

Held = dict[str, Any]  # "encoder.layers.0.dropout.p" -> value
DRAWS = 200  # of attention contexts
STATISTICS = ("eps", "momentum", "track_running_stats")
NUMBERS: dict[type[nn.Module], tuple[str, ...]] = {  # torch's layers -> what they hold that no shape of a weight tells
    nn.Dropout: ("p",),
    nn.LayerNorm: ("eps",),
    nn.GroupNorm: ("num_groups", "eps"),
    nn.modules.batchnorm._NormBase: STATISTICS,
    nn.modules.conv._ConvNd: ("stride", "dilation", "groups"),
}
ATTENTION = re.compile(r"\.attend\.dropout(_att|\.p)$")  # ours, a module or a number; NeMo's is the attention's own


class Deliberate(NamedTuple):
    """Whose argument each side takes at a place, and why that is not the same one."""

    ours: str
    nemo: str | None
    reason: str


DELIBERATE: dict[str, Deliberate] = {
    "pos_enc.dropout.p": Deliberate(
        "dropout_pre_encoder", "dropout", "under rel_pos_local_attn NeMo 3.0.0 takes dropout, and ignores the other"
    ),
    "pos_enc.dropout_emb.p": Deliberate("dropout_emb", None, "under abs_pos NeMo 3.0.0 ignores dropout_emb"),
}


def held_options(built: object, arguments: Arguments) -> Arguments:
    """The arguments, each with the value that the object holds under its name, if it holds one that JSON has."""
    held = {name: as_json(getattr(built, name)) for name in arguments if hasattr(built, name)}
    return {
        name: argument | ({"held": held[name]} if name in held and not is_opaque(held[name]) else {})
        for name, argument in arguments.items()
    }


def is_opaque(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("<")


def held_by_layers(module: nn.Module) -> Held:
    held = {}
    for name, layer in module.named_modules():
        for kind, numbers in NUMBERS.items():
            if isinstance(layer, kind):
                held |= {f"{name}.{number}": as_json(getattr(layer, number)) for number in numbers}
        if isinstance(getattr(layer, "layer_drop_probs", None), list):
            held[f"{name}.layer_drop_probs".lstrip(".")] = layer.layer_drop_probs
        if isinstance(getattr(layer, "dropout_att", None), float):
            held[f"{name}.dropout_att"] = layer.dropout_att
    return {ATTENTION.sub(".dropout.p", key): value for key, value in held.items()}


class Drawn(Exception):
    """Ends a forward pass behind the drawing of the context."""


def drawn_contexts(module: nn.Module) -> Held:
    """The attention contexts of many passes in training, drawn with one seed, of an encoder that draws them."""
    encoder = getattr(module, "encoder", module)
    if len(encoder.att_context_size_all) < 2:
        return {}
    drawn: list[list[int]] = []

    def note(*args, **given) -> None:
        """In the place of the method that makes masks for a context, ours or NeMo's."""
        drawn.append(list(given["att_context_size"] if "att_context_size" in given else args[2]))
        raise Drawn

    states, lengths = torch.zeros(1, 1, encoder.d_model), torch.ones(1, dtype=torch.int64)
    name = "masks" if hasattr(encoder, "masks") else "_create_masks"
    seed_everything(SEED)
    with mock.patch.object(encoder, name, note):
        encoder.train()
        for _ in range(DRAWS):
            with contextlib.suppress(Drawn):
                encoder(audio_signal=states, length=lengths, bypass_pre_encode=True)
    return {"encoder.drawn_contexts": drawn}


def compare_held(ours: Held, nemo: Held, encoder: Arguments) -> Iterator[Row]:
    """A row for each place, such as `encoder.layers.*.dropout.p`: the first layer that differs, or all.

    encoder: NeMo's arguments. Of layers that only one side has the parameters tell; a dropout that isn't there is 0.
    """
    places: dict[str, list[str]] = {}
    for key in dict.fromkeys([*nemo, *ours]):
        if key.endswith("dropout.p") or key.endswith("dropout_emb.p") or (key in ours and key in nemo):
            places.setdefault(re.sub(r"\.\d+(?=\.)", ".*", key), []).append(key)
    for place, keys in places.items():
        pairs = {key: (ours.get(key, 0.0), nemo.get(key, 0.0)) for key in keys}
        key = next((key for key, (here, there) in pairs.items() if here != there), keys[0])
        yield deliberate(place, *pairs[key], encoder) or compare_value(
            f"built: {place}", *pairs[key], module=key.rpartition(".")[0]
        )


def deliberate(place: str, ours: Any, nemo: Any, encoder: Arguments) -> Row | None:
    """A KNOWN row where both sides hold what they are known to."""
    known = DELIBERATE.get(place.removeprefix("encoder."))
    if known is None or ours == nemo or ours != encoder[known.ours]["value"]:
        return None
    if nemo != (encoder[known.nemo]["value"] if known.nemo else 0.0):
        return None
    return Row(LEVEL, f"built: {place}", KNOWN, reason=known.reason, detail=f"{ours!r} instead of {nemo!r}")
