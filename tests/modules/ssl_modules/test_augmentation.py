import copy
import math
import random
from collections.abc import Sequence

import pytest
import torch

from modules.ssl_modules.augmentation import MultiSpeakerNoiseAugmentation, SpeakerNoiseAugmentation
from parts.batch_types import AudioNoiseBatch

BOTH = pytest.mark.parametrize("augmentation", [SpeakerNoiseAugmentation, MultiSpeakerNoiseAugmentation])
LENGTHS = [4000, 3000, 2000, 1000]
ALWAYS_NOISE = {"prob": 1.0, "noise_ratio": 1.0}
ALWAYS_SPEECH = {"prob": 1.0, "noise_ratio": 0.0}


def make_batch(lengths: list[int] = LENGTHS, noise_len: int | None = None, seeds: list[int] | None = None):
    """Every sample of item i is +-(i + 1) in the audio and +-(100 + i) in the noise, so a mixture shows its sources."""
    generator = torch.Generator().manual_seed(0)
    audio, noise = torch.zeros(len(lengths), max(lengths)), torch.zeros(len(lengths), max(lengths))
    noise_lens = torch.tensor([length if noise_len is None else noise_len for length in lengths])
    for i, length in enumerate(lengths):
        signs = torch.randint(0, 2, (2, max(lengths)), generator=generator) * 2.0 - 1
        audio[i, :length] = (i + 1) * signs[0, :length]
        noise[i, : noise_lens[i]] = (100 + i) * signs[1, : noise_lens[i]]
    return AudioNoiseBatch(
        audio=audio,
        audio_len=torch.tensor(lengths),
        noise=noise,
        noise_len=noise_lens,
        seeds=None if seeds is None else torch.tensor(seeds),
    )


def runs(row: torch.Tensor) -> list[int]:
    edges = torch.nn.functional.pad((row != 0).int(), (1, 1)).diff().nonzero().flatten()
    return (edges[1::2] - edges[::2]).tolist()


def ratio_db(batch: AudioNoiseBatch, i: int) -> float:
    n = int(batch.audio_len[i])
    return 10 * math.log10(batch.audio[i, :n].square().sum() / batch.noise[i, :n].square().sum())


@BOTH
def test_noisy_audio_is_audio_plus_noise_and_as_long_as_the_audio(augmentation):
    random.seed(0)
    batch = make_batch(noise_len=500)
    before = copy.deepcopy(batch)
    mixed = augmentation(prob=0.5, noise_ratio=0.5)(batch)
    assert torch.equal(mixed.noisy_audio, mixed.audio + mixed.noise)
    assert mixed.noisy_audio_len.tolist() == LENGTHS
    assert torch.equal(mixed.audio, before.audio) and torch.equal(mixed.audio_len, before.audio_len)
    assert mixed.noisy_audio.data_ptr() != mixed.audio.data_ptr()


@BOTH
def test_nothing_is_mixed_in_behind_the_utterance(augmentation):
    batch = make_batch(noise_len=4000)  # noise longer than most items
    mixed = augmentation(**ALWAYS_NOISE)(batch)
    for i, length in enumerate(LENGTHS):
        assert not mixed.noise[i, length:].any()
    assert mixed.noise_len.tolist() == LENGTHS


@BOTH
def test_items_that_are_not_drawn_keep_their_noise(augmentation):
    batch = make_batch(noise_len=500)
    before = batch.noise.clone()
    mixed = augmentation(prob=0.0)(batch)
    assert torch.equal(mixed.noise, before) and mixed.noise_len.tolist() == [500] * 4
    batch = make_batch([1000] * 400)
    before = batch.noise.clone()
    random.seed(0)
    mixed = augmentation(prob=0.3, min_mix_rate=0.1, max_mix_rate=0.2)(batch)
    share = (mixed.noise != before).any(1).float().mean().item()
    assert share == pytest.approx(0.3, abs=5 * (0.21 / 400) ** 0.5)


@BOTH
@pytest.mark.parametrize("low, high", [(0.25, 0.25), (0.3, 0.6), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_the_mix_rate_is_the_covered_part_of_the_utterance(augmentation, low, high):
    random.seed(0)
    covered = []
    for _ in range(20):
        mixed = augmentation(**ALWAYS_NOISE, min_mix_rate=low, max_mix_rate=high)(make_batch())
        covered += [(mixed.noise[i] != 0).sum().item() / n for i, n in enumerate(LENGTHS)]
    assert min(covered) >= min(low, 0.99) - 1e-3 and max(covered) <= high + 1.1e-3
    if low < high:
        assert min(covered) < low + 0.1 * (high - low) and max(covered) > high - 0.1 * (high - low)


@BOTH
def test_noise_ratio_chooses_between_own_noise_and_the_speech_of_others(augmentation):
    ranges = {"min_r_speech": 40.0, "max_r_speech": 41.0, "min_r_noise": -41.0, "max_r_noise": -40.0}
    random.seed(0)
    mixed = augmentation(prob=1.0, noise_ratio=0.25, min_mix_rate=1.0, **ranges)(make_batch([1000] * 400))
    is_noise = torch.tensor([ratio_db(mixed, i) < 0 for i in range(400)]).float().mean().item()
    assert is_noise == pytest.approx(0.25, abs=5 * (0.1875 / 400) ** 0.5)


@BOTH
@pytest.mark.parametrize("kind, always", [("noise", ALWAYS_NOISE), ("speech", ALWAYS_SPEECH)])
def test_the_energy_ratio_covers_its_range(augmentation, kind, always):
    random.seed(0)
    options = {f"min_r_{kind}": 3.0, f"max_r_{kind}": 9.0, "min_mix_rate": 1.0}
    mixed = augmentation(**always, **options)(make_batch([1000] * 200))
    ratios = [ratio_db(mixed, i) for i in range(200)]
    assert 3.0 - 1e-3 <= min(ratios) < 3.5 and 8.5 < max(ratios) <= 9.0 + 1e-3


def test_one_stretch_keeps_the_level_of_its_whole_source():
    random.seed(0)
    mixed = SpeakerNoiseAugmentation(**ALWAYS_NOISE, min_r_noise=0.0, max_r_noise=0.0, max_mix_rate=0.5)(make_batch())
    for i in range(4):
        assert mixed.noise[i].abs().max().item() == pytest.approx(i + 1)  # the audio's own level: 0 dB


def test_segments_together_have_the_energy_ratio():
    random.seed(0)
    options = {"min_r_noise": 6.0, "max_r_noise": 6.0, "min_mix_rate": 0.4, "max_mix_rate": 0.4}
    mixed = MultiSpeakerNoiseAugmentation(**ALWAYS_NOISE, **options)(make_batch())
    assert [ratio_db(mixed, i) for i in range(4)] == pytest.approx([6.0] * 4, abs=1e-3)


@pytest.mark.parametrize("low, high", [(1, 1), (2, 4)])
def test_segments_are_as_many_as_asked_and_do_not_overlap(low, high):
    random.seed(0)
    options = {"min_mix_rate": 0.3, "max_mix_rate": 0.3, "min_num_segments": low, "max_num_segments": high}
    counts, firsts = set(), []
    for _ in range(40):
        mixed = MultiSpeakerNoiseAugmentation(**ALWAYS_NOISE, **options)(make_batch([4000]))
        sizes = runs(mixed.noise[0])
        assert sum(sizes) == 1200
        counts.add(len(sizes))
        firsts.append(mixed.noise[0].nonzero()[0].item())
    assert counts == set(range(low, high + 1))
    assert min(firsts) < 400 and max(firsts) > 1500


def test_noise_goes_on_from_segment_to_segment():
    random.seed(0)
    batch = make_batch([4000])
    batch.noise[0] = torch.arange(1.0, 4001.0)
    options = {"min_mix_rate": 0.3, "max_mix_rate": 0.3, "min_num_segments": 3, "max_num_segments": 3}
    noise = MultiSpeakerNoiseAugmentation(**ALWAYS_NOISE, **options)(batch).noise[0]
    pieces = noise[noise != 0]
    assert torch.allclose(pieces / pieces[0], torch.arange(1.0, 1201.0), rtol=1e-4)


@pytest.mark.parametrize("low, high", [(1, 1), (3, 3), (9, 9)])
def test_speakers_are_different_other_items(low, high):
    random.seed(0)
    options = {"min_num_segments": 12, "max_num_segments": 12, "min_num_speakers": low, "max_num_speakers": high}
    batch = make_batch([2000] * 5)
    mixed = MultiSpeakerNoiseAugmentation(**ALWAYS_SPEECH, **options, min_mix_rate=0.9)(batch)
    for i in range(5):
        n = mixed.noise[i][mixed.noise[i] != 0].abs()
        levels = torch.unique((n / n.min() * 1e3).round())
        assert len(levels) == min(high, 4)  # every item speaks at its own level


def test_shorter_speech_is_looped():
    random.seed(0)
    mixed = SpeakerNoiseAugmentation(**ALWAYS_SPEECH, min_mix_rate=1.0)(make_batch([4000, 1000]))
    stretch = mixed.noise[0]
    assert (stretch != 0).all() and torch.equal(stretch[:1000], stretch[1000:2000])


@BOTH
def test_a_single_item_gets_noise_instead_of_speech(augmentation):
    random.seed(0)
    options = {"min_r_noise": 30.0, "max_r_noise": 30.0, "min_mix_rate": 1.0}
    mixed = augmentation(**ALWAYS_SPEECH, **options)(make_batch([3000]))
    assert ratio_db(mixed, 0) == pytest.approx(30.0, abs=1e-3)


class Talkers(Sequence):
    """Speech that remembers which of it was asked for, and can't be listed."""

    def __init__(self, speech: list[torch.Tensor]):
        self.speech, self.asked = speech, []

    def __len__(self) -> int:
        return len(self.speech)

    def __getitem__(self, index: int) -> torch.Tensor:
        self.asked.append(index)
        return self.speech[index]

    def __iter__(self):
        raise AssertionError("all talkers were decoded")


def ones(count: int, length: int = 700) -> list[torch.Tensor]:
    """Speech whose samples are 1000, 1001, ...: no other sample of a batch is that large."""
    return [torch.full((length,), 1000.0 + i) for i in range(count)]


@pytest.mark.parametrize("num_speakers", [1, 2, 4])
def test_talkers_are_heard_instead_of_batch_mates_and_no_other_is_decoded(num_speakers):
    options = {"min_num_speakers": num_speakers, "max_num_speakers": num_speakers, "min_num_segments": 5}
    batch = make_batch(seeds=[1, 2, 3, 4])
    batch.talkers = [Talkers(ones(50)) for _ in LENGTHS]
    mixed = MultiSpeakerNoiseAugmentation(**ALWAYS_SPEECH, **options, min_mix_rate=0.5)(batch)
    for i in range(4):
        asked = batch.talkers[i].asked
        assert len(asked) == len(set(asked)) == num_speakers
        levels = mixed.noise[i][mixed.noise[i] != 0].unique()
        assert (levels / levels[0]).tolist() == pytest.approx(
            [(1000.0 + k) / (1000 + min(asked)) for k in sorted(asked)]
        )


@BOTH
def test_an_item_alone_hears_its_talkers_and_without_any_its_noise(augmentation):
    options = {"min_r_noise": 30.0, "max_r_noise": 30.0, "min_mix_rate": 1.0}
    batch = make_batch([3000], seeds=[5])
    batch.talkers = [Talkers(ones(2))]
    mixed = augmentation(**ALWAYS_SPEECH, **options)(batch)
    assert batch.talkers[0].asked and -5 <= ratio_db(mixed, 0) <= 5
    batch = make_batch([3000], seeds=[5])
    batch.talkers = [Talkers([])]
    assert ratio_db(augmentation(**ALWAYS_SPEECH, **options)(batch), 0) == pytest.approx(30.0, abs=1e-3)


@BOTH
def test_items_that_get_noise_decode_no_talker(augmentation):
    batch = make_batch(seeds=[1, 2, 3, 4])
    batch.talkers = [Talkers(ones(3)) for _ in LENGTHS]
    augmentation(**ALWAYS_NOISE)(batch)
    assert not any(talkers.asked for talkers in batch.talkers)


@BOTH
@pytest.mark.parametrize("silent", ["noise_len", "noise", "audio"])
def test_silence_on_either_side_adds_nothing(augmentation, silent):
    batch = make_batch()
    getattr(batch, silent).zero_()
    mixed = augmentation(**ALWAYS_NOISE, min_mix_rate=0.5)(batch)
    assert not mixed.noise.any() and mixed.noise_len.tolist() == LENGTHS


@BOTH
@pytest.mark.parametrize("noise_len", [0, 1, 999, 1000, 1001, 4000])
def test_noise_of_any_length_is_looped_to_the_length_of_the_mixture(augmentation, noise_len):
    random.seed(0)
    batch = make_batch([4000], noise_len=noise_len)
    batch.noise[0, :noise_len] = torch.arange(1.0, noise_len + 1)
    options = {"min_mix_rate": 0.25, "max_mix_rate": 0.25, "min_num_segments": 2, "max_num_segments": 2}
    if augmentation is SpeakerNoiseAugmentation:
        options = {"min_mix_rate": 0.25, "max_mix_rate": 0.25}
    added = augmentation(**ALWAYS_NOISE, **options)(batch).noise[0]
    pieces = added[added != 0]
    if noise_len == 0:
        assert len(pieces) == 0
        return
    first = round((pieces[0] / (pieces[1:] - pieces[:-1]).abs().min()).item()) if noise_len > 1 else 1
    start = first - 1 if augmentation is SpeakerNoiseAugmentation else 0  # one stretch starts anywhere in longer noise
    wanted = torch.tensor([(start + k) % noise_len + 1.0 for k in range(1000)])
    assert torch.allclose(pieces / pieces[0], wanted / wanted[0], rtol=1e-3)


@BOTH
@pytest.mark.parametrize("always", [ALWAYS_NOISE, ALWAYS_SPEECH])
def test_items_of_a_few_samples_are_mixed_too(augmentation, always):
    random.seed(0)
    for _ in range(20):
        mixed = augmentation(**always)(make_batch([3, 2, 1, 0]))
        assert mixed.noisy_audio.isfinite().all()


@BOTH
def test_seeded_items_do_not_depend_on_the_batch_or_the_global_state(augmentation):
    options = {"prob": 1.0, "noise_ratio": 1.0, "max_mix_rate": 0.9}
    seeds = [9, 8, 7, 6]
    random.seed(0)
    together = augmentation(**options)(make_batch(seeds=seeds))
    batch = make_batch(seeds=seeds)
    alone = augmentation(**options)(
        AudioNoiseBatch(
            audio=batch.audio[1:2],
            audio_len=batch.audio_len[1:2],
            noise=batch.noise[1:2],
            noise_len=batch.noise_len[1:2],
            seeds=batch.seeds[1:2],
        )
    )
    assert torch.equal(alone.noise[0], together.noise[1])
    assert torch.equal(together.seeds, batch.seeds)
    other = augmentation(**options)(make_batch(seeds=[1, 2, 3, 4]))
    assert not torch.equal(other.noise, together.noise)


@BOTH
def test_unseeded_batches_follow_pythons_global_generator(augmentation):
    def mixed(seed: int) -> torch.Tensor:
        random.seed(seed)
        return augmentation(prob=0.7, noise_ratio=0.5)(make_batch()).noise

    assert torch.equal(mixed(1), mixed(1))
    assert not torch.equal(mixed(1), mixed(2))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"prob": 1.5}, "prob=1.5 is not in"),
        ({"noise_ratio": -0.1}, "noise_ratio=-0.1 is not in"),
        ({"min_r_speech": 6.0}, "min_r_speech=6.0 is above max_r_speech=5.0"),
        ({"min_r_noise": 21.0}, "min_r_noise=21.0 is above max_r_noise=20.0"),
        ({"min_mix_rate": 0.6, "max_mix_rate": 0.5}, "min_mix_rate=0.6 is above max_mix_rate=0.5"),
        ({"max_mix_rate": 1.1}, "max_mix_rate=1.1 is not in"),
        ({"min_num_segments": 6}, "min_num_segments=6 is above max_num_segments=5"),
        ({"min_num_segments": 0}, "min_num_segments=0 must be at least 1"),
        ({"min_num_speakers": 5}, "min_num_speakers=5 is above max_num_speakers=4"),
        ({"min_num_speakers": 0}, "min_num_speakers=0 must be at least 1"),
    ],
)
def test_wrong_options_are_named(wrong, message):
    with pytest.raises(ValueError, match=rf"^batch_augmentor\.{message}"):
        MultiSpeakerNoiseAugmentation(**wrong)
