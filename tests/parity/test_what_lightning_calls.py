"""Negative controls of what a run does around the forward: steps, optimizer, schedule, drawn masks and contexts."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from core.classes.model import ModelPT
from core.optim import schedulers
from models.ssl_models import EncDecMaskedTokenPredModel
from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules.masking import RandomBlockMasking
from tools.parity.compare import compare_with
from tools.parity.comparison import compare_levels
from tools.parity.records import kept
from tools.parity.rows import FAILED, PASSED

Patch = pytest.MonkeyPatch
MODEL, BOOKS, CONTEXTS = "model_pre_conv_1_book", "model_pre_conv_2_books", "encoder_contexts_drawn_in_training"


def doubled_loss(patch: Patch) -> None:
    training_step = EncDecMaskedTokenPredModel.training_step
    patch.setattr(EncDecMaskedTokenPredModel, "training_step", lambda self, batch: 2 * training_step(self, batch))


def masks_of_evaluation_in_training(patch: Patch) -> None:
    step = EncDecMaskedTokenPredModel.step
    patch.setattr(EncDecMaskedTokenPredModel, "step", lambda self, batch, seeded=False: step(self, batch, seeded=True))


def doubled_validation_loss(patch: Patch) -> None:
    evaluation_step = EncDecMaskedTokenPredModel.evaluation_step

    def doubled(self, batch):
        metrics, weight = evaluation_step(self, batch)
        return metrics | {"loss": 2 * metrics["loss"]}, weight

    patch.setattr(EncDecMaskedTokenPredModel, "evaluation_step", doubled)


def embedding_without_gradient(patch: Patch) -> None:
    forward = RandomBlockMasking.forward

    def detached(self, input_feats, input_lengths):
        with torch.no_grad():
            return forward(self, input_feats=input_feats, input_lengths=input_lengths)

    patch.setattr(RandomBlockMasking, "forward", detached)


def fewer_masks_in_training(patch: Patch) -> None:
    overlapping = RandomBlockMasking._overlapping

    def fewer(self, lengths, max_length):
        mask_prob, self.mask_prob = self.mask_prob, self.mask_prob * (0.5 if self.training else 1.0)
        try:
            return overlapping(self, lengths, max_length)
        finally:
            self.mask_prob = mask_prob

    patch.setattr(RandomBlockMasking, "_overlapping", fewer)


def group_with(**options) -> Callable[[Patch], None]:
    def mutation(patch: Patch) -> None:
        groups = ModelPT.setup_optimizer_param_groups
        patch.setattr(ModelPT, "setup_optimizer_param_groups", lambda self: [group | options for group in groups(self)])

    return mutation


def schedule_by_epoch(patch: Patch) -> None:
    patch.setattr(schedulers, "BY_EPOCH", tuple(schedulers.SCHEDULERS))


def contexts_drawn_equally(patch: Patch) -> None:
    def draw_context(self):
        return random.choice(self.att_context_size_all) if self.training else self.att_context_size

    patch.setattr(ConformerEncoder, "draw_context", draw_context)


@dataclass(frozen=True)
class Seen:
    """A mutation, the record and the aspect that show it, and the row that is the first to fail."""

    mutation: Callable[[Patch], None]
    record: str
    aspect: str
    row: str


SEEN = {
    "doubled loss": Seen(doubled_loss, MODEL, "computation", "training_loss/loss"),
    "seeded masks": Seen(masks_of_evaluation_in_training, MODEL, "computation", "training_subsampled/states"),
    "doubled validation loss": Seen(doubled_validation_loss, MODEL, "computation", "training_loss/validation_loss"),
    "embedding without gradient": Seen(
        embedding_without_gradient, BOOKS, "computation", "gradient/mask_processor.mask_embedding"
    ),
    "fewer masks in training": Seen(
        fewer_masks_in_training, MODEL, "masks", "masks/mask in the model's training forward"
    ),
    "no decay": Seen(
        group_with(weight_decay=0.0), MODEL, "configuration", "configuration/built: optim.param_groups.*.weight_decay"
    ),
    "other betas": Seen(
        group_with(betas=(0.9, 0.999)), MODEL, "configuration", "configuration/built: optim.param_groups.*.betas"
    ),
    "by epoch": Seen(schedule_by_epoch, MODEL, "configuration", "configuration/built: optim.sched.interval"),
    "contexts": Seen(contexts_drawn_equally, CONTEXTS, "configuration", "configuration/built: encoder.drawn_contexts"),
}


@pytest.mark.parametrize("name", SEEN)
def test_it_is_seen(name, monkeypatch, tmp_path):
    seen, record = SEEN[name], kept(SEEN[name].record)
    seen.mutation(monkeypatch)
    comparison = compare_with(replace(record, job=replace(record.job, aspects=(seen.aspect,))), tmp_path)
    assert f"{comparison.failed[0].level}/{comparison.failed[0].what}" == seen.row


NOISY, CLEAR, FROZEN = "parameter/noisy", "parameter/clear", "parameter/weights that are not trained"
EXPECTED = {
    "gradient/noisy": torch.tensor([1e-6, 1e-6]),
    "gradient/clear": torch.tensor([1.0, 1e-6]),
    "learning_rate/rates": torch.tensor([0.01, 0.01], dtype=torch.float64),
    NOISY: torch.tensor([0.01, -0.02]),
    CLEAR: torch.tensor([0.02, -0.01]),
    FROZEN: torch.zeros(2),
}


@pytest.mark.parametrize(
    ("name", "moved", "status"),
    [
        (NOISY, [-0.02, 0.02], PASSED),  # either way
        (NOISY, [0.01, 0.2], FAILED),  # further than Adam goes
        (CLEAR, [0.02, 0.02], PASSED),
        (CLEAR, [0.021, -0.01], FAILED),
        (CLEAR, [0.02, 0.2], FAILED),
        (FROZEN, [0.0, 1e-9], FAILED),
    ],
)
def test_a_movement_of_noise_has_a_bound_and_another_has_a_limit(name, moved, status):
    rows = {f"{row.level}/{row.what}": row for row in compare_levels(EXPECTED | {name: torch.tensor(moved)}, EXPECTED)}
    assert set(rows) == set(EXPECTED)
    assert rows[name].status == status
