"""Masks of broken versions of our masking, held against those of our own; against NeMo's they are in tests/parity."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from models.ssl_models import EncDecMaskedTokenPredModel
from modules.ssl_modules import masking
from modules.ssl_modules.masking import RandomBlockMasking
from tools.parity.aspects import masks
from tools.parity.cases import SEED
from tools.parity.known_versions import for_version
from tools.parity.records import Job, Measured, Record, kept
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, PASSED, Row
from tools.parity.side import Side

Patch = pytest.MonkeyPatch
CASE = "model_post_conv_1_book"  # masks of 250 steps, blocks of 5: quickly drawn


def job(**own_options) -> Job:
    return replace(kept(CASE).job, aspects=("masks",), own_options=own_options)


def measured(folder, job: Job) -> Record:
    return Record(job, {"side": "ours"}, {"masks": masks.measure(Side("ours", job, folder))})


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Record:
    """Ours in the place of NeMo's, drawn as NeMo's side draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(masks.SAMPLES, "ours", SEED + 1)
        record = measured(tmp_path_factory.mktemp("masks"), job())
    tensors = {k: v for k, v in record.measured["masks"].tensors.items() if "seeded" not in k}
    return replace(
        record, origin={"nemo_version": "3.0.0"}, measured={"masks": Measured(tensors, record.measured["masks"].facts)}
    )


def rows_against(reference: Record, folder, **own_options) -> list[Row]:
    return list(masks.compare(measured(folder, job(**own_options)), reference))


def failed(rows: list[Row]) -> set[str]:
    return {row.what for row in rows if row.status == FAILED}


def test_a_right_masking_passes_every_row(reference, tmp_path):
    rows = rows_against(reference, tmp_path)
    assert {row.status for row in rows} == {PASSED}
    assert {row.level for row in rows} == {"masks"}
    assert max(row.error for row in rows if "steps" in row.what) > 0.5  # two samples, not one twice


def blocks_of_one_frame_less(patch: Patch) -> None:
    pool = F.max_pool1d
    patch.setattr(masking.F, "max_pool1d", lambda x, size, stride: pool(x[..., 1:], size - 1, stride=stride))


def a_smaller_block_size(patch: Patch) -> None:
    init = RandomBlockMasking.__init__

    def smaller(self, *args, **options):
        init(self, *args, **options)
        self.block_size -= 1

    patch.setattr(RandomBlockMasking, "__init__", smaller)


def probability_ten_percent_off(patch: Patch) -> None:
    uniform = RandomBlockMasking._uniform
    patch.setattr(RandomBlockMasking, "_uniform", lambda self, *args, **kwargs: uniform(self, *args, **kwargs) / 0.9)


def starts_before_the_beginning(patch: Patch) -> None:
    overlapping = RandomBlockMasking._overlapping

    def early(self, lengths, max_length):
        before = self.block_size - 1
        return overlapping(self, lengths + before, max_length + before)[:, before:]

    patch.setattr(RandomBlockMasking, "_overlapping", early)


def masks_beyond_the_length(patch: Patch) -> None:
    overlapping = RandomBlockMasking._overlapping
    patch.setattr(
        RandomBlockMasking, "_overlapping", lambda self, lengths, width: overlapping(self, lengths + 2, width)
    )


def drawn_over_the_padded_length(patch: Patch) -> None:
    forward = RandomBlockMasking.forward

    def padded(self, input_feats, input_lengths):
        return forward(self, input_feats, torch.full_like(input_lengths, input_feats.shape[2]))

    patch.setattr(RandomBlockMasking, "forward", padded)


def zeros_instead_of_the_embedding(patch: Patch) -> None:
    forward = RandomBlockMasking.forward

    def zeros(self, input_feats, input_lengths):
        _, is_masked = forward(self, input_feats, input_lengths)
        return input_feats.masked_fill(is_masked > 0, 0.0), is_masked

    patch.setattr(RandomBlockMasking, "forward", zeros)


def another_embedding(patch: Patch) -> None:
    forward = RandomBlockMasking.forward

    def doubled(self, input_feats, input_lengths):
        with torch.no_grad():
            self.mask_embedding.mul_(2.0)
        return forward(self, input_feats, input_lengths)

    patch.setattr(RandomBlockMasking, "forward", doubled)


def a_grid_that_never_moves(patch: Patch) -> None:
    uniform = RandomBlockMasking._uniform

    def still(self, lengths, count, stream):
        return uniform(self, lengths, count, stream) * (stream != 2)

    patch.setattr(RandomBlockMasking, "_uniform", still)


def one_seed_for_all_samples(patch: Patch) -> None:
    uniform = masking.seeded_uniform
    patch.setattr(
        masking, "seeded_uniform", lambda seeds, count, stream: uniform(torch.zeros_like(seeds), count, stream=stream)
    )


def seeds_of_a_skewed_generator(patch: Patch) -> None:
    uniform = masking.seeded_uniform
    patch.setattr(masking, "seeded_uniform", lambda seeds, count, stream: uniform(seeds, count, stream=stream) * 0.9)


def the_model_counts_padding(patch: Patch) -> None:
    outputs = EncDecMaskedTokenPredModel._predict_post_conv

    def counted(self, features, apply_mask):
        longest = torch.full_like(features.noisy_lengths, features.noisy.shape[2])
        return outputs(self, replace(features, noisy_lengths=longest), apply_mask)

    patch.setattr(EncDecMaskedTokenPredModel, "_predict_post_conv", counted)


@dataclass(frozen=True)
class Mutant:
    """A way to go wrong, a row of an exact comparison and one of a distribution that must see it, where one can."""

    mutation: Callable[[Patch], None]
    exact: str = ""
    distribution: str = ""


MUTANTS = [
    Mutant(blocks_of_one_frame_less, "overlap, one seed", "overlap, 12 steps"),
    Mutant(a_smaller_block_size, "block_size"),
    Mutant(probability_ten_percent_off, "overlap, one seed", "overlap, 250 steps"),
    Mutant(starts_before_the_beginning, "overlap, one seed", "overlap, 12 steps"),
    Mutant(masks_beyond_the_length, "overlap, one seed", "overlap, 12 steps"),
    Mutant(drawn_over_the_padded_length, "no overlap, behind the end", "seeded no overlap, 12 steps"),
    Mutant(zeros_instead_of_the_embedding, "overlap, what is put in"),
    Mutant(another_embedding, "no overlap, what is put in"),
    Mutant(a_grid_that_never_moves, "no overlap, one seed", "no overlap, 38 steps"),
    Mutant(one_seed_for_all_samples, "", "seeded overlap, 38 steps"),
    Mutant(seeds_of_a_skewed_generator, "", "seeded overlap, 250 steps"),
    Mutant(the_model_counts_padding, "lengths in the model's forward"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.mutation.__name__)
def test_a_mutant_is_seen(mutant, reference, monkeypatch, tmp_path):
    mutant.mutation(monkeypatch)
    seen = failed(rows_against(reference, tmp_path))
    assert {mutant.exact, mutant.distribution} - {""} <= seen


def test_own_options_are_known_and_the_rest_still_passes(reference, tmp_path):
    rows = rows_against(reference, tmp_path, **{"masking.min_masks": 1, "masking.max_mask_ratio": 0.8})
    assert failed(rows) == set()
    known = next(row for row in rows if row.what == "own options")
    assert known.status == KNOWN and known.error > 10
    assert known.reason.startswith("masking.min_masks=1, masking.max_mask_ratio=0.8 of this project")


def test_own_options_hide_no_mutant(reference, monkeypatch, tmp_path):
    blocks_of_one_frame_less(monkeypatch)
    assert "overlap, one seed" in failed(rows_against(reference, tmp_path, **{"masking.min_masks": 1}))


def test_a_side_that_masks_nothing_says_so(reference, monkeypatch, tmp_path):
    monkeypatch.setattr(
        RandomBlockMasking, "_overlapping", lambda self, lengths, width: torch.zeros(len(lengths), width).bool()
    )
    rows = rows_against(reference, tmp_path)
    assert next(row for row in rows if row.what == "overlap, what is put in").status == NOT_RUN
    assert {"overlap, one seed", "overlap, 38 steps"} <= failed(rows)


def as_nemo_26(record: Record, ratio: float = 0.8) -> Record:
    """Ours with the rule of NeMo 2.6 in the place of NeMo 2.6: it begins a block at one place less, draws otherwise."""
    facts, tensors = record.measured["masks"].facts, record.measured["masks"].tensors
    shared = ("short rule/", "forward", "step", "training ")
    mine = {k.removeprefix("short rule/"): v for k, v in tensors.items() if k.startswith(shared)}
    fewer, ruled = tensors["fewer starts/overlap/statistics"], mine["overlap/statistics"].clone()
    for row, length in enumerate(facts["lengths"]):
        if facts["block_size"] < length * ratio:
            ruled[row] = fewer[row]
    mine["overlap/statistics"] = ruled
    return replace(record, origin={"nemo_version": "2.6.0"}, measured={"masks": Measured(mine, facts)})


@pytest.fixture(scope="module")
def ruled(tmp_path_factory) -> Record:
    """Our side as it is compared with NeMo 2.6."""
    return measured(tmp_path_factory.mktemp("ruled"), for_version(job(), "2.6.0"))


def test_the_short_rule_is_compared_with_nemo_26(ruled, monkeypatch, tmp_path):
    rows = list(masks.compare(ruled, as_nemo_26(ruled)))
    assert failed(rows) == set()
    assert {row.what for row in rows if row.status == KNOWN} == {"the last start"}
    monkeypatch.setattr(masking, "SHORT_BLOCK", 2)
    rows = list(masks.compare(measured(tmp_path, ruled.job), as_nemo_26(ruled)))
    assert {"overlap, short utterances", "no overlap, short utterances", "seeded overlap, 5 steps"} <= failed(rows)


def test_without_the_short_rule_nemo_26_differs(ruled, tmp_path):
    rows = list(masks.compare(measured(tmp_path, job()), as_nemo_26(ruled)))
    assert "overlap, short utterances" in failed(rows)


def test_the_ratio_of_the_config_decides_what_is_short_for_nemo_26(ruled, tmp_path):
    asked = replace(ruled.job, own_options={"masking.max_mask_ratio": 0.5})
    ours = measured(tmp_path, asked)
    assert failed(list(masks.compare(ours, as_nemo_26(ours, ratio=0.5)))) == set()
    assert "overlap, short utterances" in failed(list(masks.compare(ours, as_nemo_26(ruled))))
