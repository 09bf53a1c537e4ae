"""What NeMo 3.0.0's data sets gave of small audio files, kept in a record: ours give the same, and each way of ours to
go wrong is seen in the row of what it breaks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import soxr
import torch
from torch.nn.utils.rnn import pad_sequence

import data.ssl_dataset
from data import collate, noise, noisy_speech
from modules.ssl_modules import augmentation
from modules.ssl_modules.augmentation import SpeakerNoiseAugmentation
from parts.preprocessing import segment
from tools.parity.aspects import data as data_aspect
from tools.parity.compare import compare_with
from tools.parity.data import distributions, mixing
from tools.parity.data.files import MANIFESTS
from tools.parity.data.scenes import SCENES, YOURS
from tools.parity.records import Measured, Record, below, kept
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def record() -> Record:
    """Of the data alone."""
    whole = kept("model_pre_conv_1_book")
    return replace(whole, job=replace(whole.job, aspects=("data",)), measured={"data": whole.measured["data"]})


def test_items_batches_noise_and_mixing_are_nemos(record, tmp_path):
    comparison = compare_with(record, tmp_path)
    assert comparison.failed == []
    assert {row.level for row in comparison.rows} == {"data"}
    statuses = [row.status for row in comparison.rows]
    assert statuses.count(PASSED) > 100
    assert statuses.count(PASSED) + statuses.count(KNOWN) == len(statuses)


def test_what_differs_on_purpose_is_known_with_its_reason(record, tmp_path):
    known = [row for row in compare_with(record, tmp_path).rows if row.status == KNOWN]
    assert {row.what for row in known} == {
        "all channels item 0: audio",
        *(f"mixed with nothing batch {batch}: noisy_audio_len" for batch in range(3)),
        "noise: file of zero mean",
        "noise: piece of a file",
    }
    assert all(row.reason and row.detail and row.module for row in known)


def test_a_record_holds_every_scene_and_is_small(record):
    measured = record.measured["data"]
    parts = {name.split("/")[0] for name in measured.tensors} | {name.split("/")[0] for name in measured.facts}
    assert parts == {*SCENES, "noises", "mixing"}
    assert {scene.manifest for scene in SCENES.values()} <= set(MANIFESTS)
    assert sum(tensor.numel() * tensor.element_size() for tensor in measured.tensors.values()) < 300_000


# what can go wrong


def resampled_quickly(patch: Patch) -> None:
    resample = soxr.resample
    patch.setattr(soxr, "resample", lambda samples, *rates, quality: resample(samples, *rates, quality="QQ"))


def first_channel_only(patch: Patch) -> None:
    patch.setattr(segment, "to_mono", lambda channels, selector: channels[:, 0])


def offset_left_out(patch: Patch) -> None:
    decode = segment.decode
    patch.setattr(segment, "decode", lambda source, offset, duration, mix: decode(source, 0.0, duration, mix))


def duration_left_out(patch: Patch) -> None:
    decode = segment.decode
    patch.setattr(segment, "decode", lambda source, offset, duration, mix: decode(source, offset, None, mix))


def silence_kept(patch: Patch) -> None:
    patch.setattr(segment, "trim_silence", lambda samples: samples)


def short_audio_padded_with_zeros(patch: Patch) -> None:
    pad = noisy_speech.pad_audio
    patch.setattr(noisy_speech, "pad_audio", lambda audio, min_len, mode: pad(audio, min_len, "zero"))


def bounds_excluded(patch: Patch) -> None:
    keep = data.ssl_dataset.keep_durations
    patch.setattr(
        data.ssl_dataset, "keep_durations", lambda table, low, high, path: keep(table, low, high and high - 1e-9, path)
    )


def lower_bound_excluded(patch: Patch) -> None:
    keep = data.ssl_dataset.keep_durations
    patch.setattr(
        data.ssl_dataset, "keep_durations", lambda table, low, high, path: keep(table, low and low + 1e-9, high, path)
    )


def manifest_backwards(patch: Patch) -> None:
    keep = data.ssl_dataset.keep_durations

    def backwards(*arguments):
        table = keep(*arguments)
        return table.select(np.arange(len(table))[::-1])

    patch.setattr(data.ssl_dataset, "keep_durations", backwards)


def lengths_off_by_one(patch: Patch) -> None:
    item = noisy_speech.NoisySpeech.item

    def longer(self, *arguments):
        made = item(self, *arguments)
        return replace(made, audio_len=made.audio_len - 1)

    patch.setattr(noisy_speech.NoisySpeech, "item", longer)


def padding_of_another_value(patch: Patch) -> None:
    patch.setattr(collate, "pad_sequence", partial(pad_sequence, padding_value=1e-3))


def noise_left_out(patch: Patch) -> None:
    change_batches(patch, lambda batch: replace(batch, noisy_audio=batch.audio.clone()))


def noise_in_the_target(patch: Patch) -> None:
    change_batches(patch, lambda batch: replace(batch, audio=batch.noisy_audio))


def lengths_of_another_type(patch: Patch) -> None:
    change_batches(patch, lambda batch: replace(batch, audio_len=batch.audio_len.int()))


def change_batches(patch: Patch, change: Callable) -> None:
    collated = collate.collate_audio_noise
    patch.setattr(noisy_speech, "collate_audio_noise", lambda *arguments: change(collated(*arguments)))


def one_decibel_louder(patch: Patch) -> None:
    gain = augmentation.gain
    patch.setattr(augmentation, "gain", lambda wanted, added, ratio_db: gain(wanted, added, ratio_db - 1.0))


def augmentor_never_applied(patch: Patch) -> None:
    patch.setattr(data.ssl_dataset, "build_batch_augmentor", lambda config, path: None)


def noise_in_place_of_talkers(patch: Patch) -> None:
    draw = SpeakerNoiseAugmentation.draw_kind
    patch.setattr(SpeakerNoiseAugmentation, "draw_kind", lambda self, rng, others: draw(self, rng, 0))


def all_are_mixed(patch: Patch) -> None:
    create = SpeakerNoiseAugmentation.__init__

    def certain(self, prob=0.0, *arguments, **options):
        create(self, 1.0 if prob else prob, *arguments, **options)

    patch.setattr(SpeakerNoiseAugmentation, "__init__", certain)


def segments_at_the_start(patch: Patch) -> None:
    starts = augmentation.ordered_starts
    patch.setattr(augmentation, "ordered_starts", lambda rng, sizes, length: starts(rng, sizes, sum(sizes)))


def noise_from_its_start(patch: Patch) -> None:
    read = noise.read_piece

    def beginning(entry, seconds, sample_rate, crop_samples, rng):
        return read(entry, seconds, sample_rate, None, rng)[:crop_samples]

    patch.setattr(noise, "read_piece", beginning)


def noise_twice_as_loud(patch: Patch) -> None:
    read = noise.read_piece
    patch.setattr(noise, "read_piece", lambda *arguments: 2 * read(*arguments))


def first_noise_always(patch: Patch) -> None:
    sample = data.ssl_dataset.sample_noise
    patch.setattr(
        data.ssl_dataset, "sample_noise", lambda lines, *arguments, **options: sample(lines[:1], *arguments, **options)
    )


def silence_left_silent(patch: Patch) -> None:
    patch.setattr(noise, "is_silent", lambda samples: False)


def silence_by_the_sum(patch: Patch) -> None:
    patch.setattr(noise, "is_silent", lambda samples: sum(samples) == 0)


def offset_of_noise_left_out(patch: Patch) -> None:
    read = noise.read_piece
    patch.setattr(noise, "read_piece", lambda entry, *arguments: read(entry._replace(offset=0.0), *arguments))


def silence_in_place_of_stereo(patch: Patch) -> None:
    def refuse(channels, selector):
        if channels.shape[1] > 1:
            raise segment.BadAudio("unreadable", "several channels")
        return channels[:, 0]

    patch.setattr(segment, "to_mono", refuse)


@dataclass(frozen=True)
class Seen:
    """A mutation, the first row that fails of it, and the module that this row blames."""

    mutation: Callable[[Patch], None]
    what: str
    module: str


SEEN = [
    Seen(resampled_quickly, "speech item 1: audio", "parts.preprocessing.segment"),
    Seen(first_channel_only, "speech item 2: audio", "parts.preprocessing.segment"),
    Seen(silence_in_place_of_stereo, "speech item 2", "parts.preprocessing.segment"),
    Seen(offset_left_out, "speech item 3: audio", "parts.preprocessing.audio_file"),
    Seen(duration_left_out, "speech item 3: audio", "parts.preprocessing.audio_file"),
    Seen(silence_kept, "trimmed item 0: audio", "parts.preprocessing.segment"),
    Seen(short_audio_padded_with_zeros, "speech item 4: audio", "data.padding"),
    Seen(bounds_excluded, "speech: number of items", "parts.preprocessing.manifest"),
    Seen(lower_bound_excluded, "speech: number of items", "parts.preprocessing.manifest"),
    Seen(manifest_backwards, "speech item 0: audio", "data.audio_to_text"),
    Seen(lengths_off_by_one, "speech item 0: audio_len", "data.noisy_speech"),
    Seen(padding_of_another_value, "speech batch 0: audio", "data.collate"),
    Seen(lengths_of_another_type, "speech batch 0: audio_len", "data.collate"),
    Seen(noise_left_out, "speech batch 0: noisy_audio", "data.collate"),
    Seen(noise_in_the_target, "speech batch 0: audio", "data.collate"),
    Seen(one_decibel_louder, "mixed with noise batch 0: noise", "modules.ssl_modules.augmentation"),
    Seen(augmentor_never_applied, "mixed with noise batch 0: noise", "modules.ssl_modules.augmentation"),
    Seen(noise_in_place_of_talkers, "mixed with a talker batch 0: noise", "modules.ssl_modules.augmentation"),
    Seen(all_are_mixed, "mixing, as in NEST: share of items", "modules.ssl_modules.augmentation"),
    Seen(segments_at_the_start, "mixing, as in NEST: first sample", "modules.ssl_modules.augmentation"),
    Seen(noise_from_its_start, "noise: where a piece begins", "data.noise"),
    Seen(noise_twice_as_loud, "speech item 0: noise", "data.noise"),
    Seen(first_noise_always, "noise: share of a long file", "data.noise"),
    Seen(silence_left_silent, "noise: level of a silent file, dB", "data.noise"),
    Seen(silence_by_the_sum, "noise: file of zero mean", "data.noise"),
    Seen(offset_of_noise_left_out, "noise: piece of a file", "data.noise"),
]


@pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.mutation.__name__)
def test_the_comparison_sees(seen, record, monkeypatch, tmp_path):
    seen.mutation(monkeypatch)
    failed = compare_with(record, tmp_path).failed
    assert (failed[0].what, failed[0].module) == (seen.what, seen.module)
    assert all(row.status == FAILED and row.detail and row.module for row in failed)


# a user's manifest


@pytest.fixture
def users(record, tmp_path) -> Record:
    """As of a user's manifest, whose two items are those of a scene."""
    measured = record.measured["data"]
    tensors, facts = (
        {f"{YOURS}/{key}": value for key, value in below("speech/", part).items() if not key.startswith("item 2")}
        for part in (measured.tensors, measured.facts)
    )
    manifest = tmp_path / "mine.json"
    manifest.write_text("", encoding="utf-8")
    job = replace(record.job, manifest=str(manifest), noise_manifest=str(manifest))
    noise = {"noises/your level": torch.zeros(3), "noises/your length": torch.zeros(3)}
    whole = Measured(measured.tensors | tensors | noise, measured.facts | facts)
    return replace(record, job=job, measured={"data": whole})


def test_a_manifest_that_stayed_elsewhere_is_not_run(users, tmp_path):
    (tmp_path / "mine.json").unlink()
    comparison = compare_with(users, tmp_path)
    not_run = {row.what: row.reason for row in comparison.rows if row.status == NOT_RUN}
    assert comparison.failed == [] and comparison.passed
    assert not_run.pop(YOURS) == "the manifest isn't here"
    assert set(not_run.values()) == {"the manifest of noise isn't here"}


@pytest.mark.parametrize("what", ["raised", "item 0/raised"])
def test_a_manifest_that_nemo_can_not_read_is_no_pass(what, users, monkeypatch, tmp_path):
    error = "UnicodeDecodeError: 'utf-8' codec"
    others = {k: v for k, v in users.measured["data"].facts.items() if not k.startswith(YOURS)}
    here = Measured(facts={"items": 1, "item 0/audio/form": [], "batches raised": error})
    there = Measured(facts=here.facts | {what: error})
    part = data_aspect.part

    def part_of(name: str, record: Record) -> Measured:
        if name != YOURS:
            return part(name, record)
        return there if record.origin["side"] == "nemo" else here

    monkeypatch.setattr(data_aspect, "part", part_of)
    users = replace(users, measured={"data": replace(users.measured["data"], facts=others)})
    comparison = compare_with(users, tmp_path)
    broken = [row for row in comparison.rows if row.status == BROKEN]
    assert [row.what for row in broken] == [f"{YOURS}: {'reading' if what == 'raised' else 'items'}"]
    assert error in "".join(row.reason for row in comparison.rows) and not comparison.passed


def test_rows_that_chance_may_refuse_are_no_more_than_are_counted_on(record, tmp_path):
    rows = compare_with(record, tmp_path).rows
    drawn = sum(row.reason == distributions.OFTEN for row in rows)
    of_users = 2 + 1 + len(mixing.MEASURED)  # noise of a manifest, and a batch augmentor of a config
    assert 20 <= drawn <= distributions.ROWS - of_users
