"""What holds for every batch and every option of the batch augmentations."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.ssl_modules.augmentation import MultiSpeakerNoiseAugmentation, SpeakerNoiseAugmentation
from parts.batch_types import AudioNoiseBatch

SEEDS = st.integers(0, 2**63 - 1)
FEW = settings(max_examples=60, deadline=None)


@st.composite
def batches(draw, min_items: int = 1, min_samples: int = 0, with_talkers: bool | None = None) -> AudioNoiseBatch:
    """Every sample is +-level, so any stretch of a signal has the energy per sample of the whole signal."""
    lengths = draw(st.lists(st.integers(min_samples, 300), min_size=min_items, max_size=5))
    noise_lengths = [draw(st.integers(min(min_samples, n), n)) for n in lengths]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    padding = draw(st.integers(0, 50))

    def signals(sizes: list[int]) -> list[torch.Tensor]:
        levels = 10 ** (torch.rand(len(sizes), generator=generator) * 4 - 3)
        return [level * (torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1) for n, level in zip(sizes, levels)]

    def padded(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([torch.cat([row, torch.zeros(max(lengths) + padding - len(row))]) for row in rows])

    talkers = None
    if draw(st.booleans()) if with_talkers is None else with_talkers:
        sizes = st.lists(st.integers(min_samples, 300), min_size=min_items - 1, max_size=6)
        talkers = [signals(draw(sizes)) for _ in lengths]
    return AudioNoiseBatch(
        audio=padded(signals(lengths)),
        audio_len=torch.tensor(lengths),
        noise=padded(signals(noise_lengths)),
        noise_len=torch.tensor(noise_lengths),
        seeds=torch.tensor(draw(st.lists(SEEDS, min_size=len(lengths), max_size=len(lengths)))),
        talkers=talkers,
    )


@st.composite
def augmentations(draw, prob: float | None = None) -> SpeakerNoiseAugmentation:
    """Remembers what kinds and energy ratios it drew."""

    def low_high(name: str, low, high, numbers=st.floats) -> dict:
        pair = sorted(draw(st.lists(numbers(low, high), min_size=2, max_size=2)))
        return {f"min_{name}": pair[0], f"max_{name}": pair[1]}

    options = {"prob": draw(st.floats(0, 1)) if prob is None else prob, "noise_ratio": draw(st.floats(0, 1))}
    options |= low_high("r_speech", -30, 30) | low_high("r_noise", -30, 30) | low_high("mix_rate", 0, 1)
    base = draw(st.sampled_from([SpeakerNoiseAugmentation, MultiSpeakerNoiseAugmentation]))
    if base is MultiSpeakerNoiseAugmentation:
        options |= low_high("num_segments", 1, 5, st.integers) | low_high("num_speakers", 1, 4, st.integers)

    class Remembering(base):
        def __init__(self, **options):
            super().__init__(**options)
            self.drawn = []

        def _kind(self, rng, num_others):
            self.drawn.append(super().draw_kind(rng, num_others))
            return self.drawn[-1]

    return Remembering(**options)


def copied(batch: AudioNoiseBatch) -> AudioNoiseBatch:
    return AudioNoiseBatch(
        audio=batch.audio.clone(),
        audio_len=batch.audio_len.clone(),
        noise=batch.noise.clone(),
        noise_len=batch.noise_len.clone(),
        seeds=batch.seeds,
        talkers=batch.talkers,
    )


def rows(batch: AudioNoiseBatch, items: list[int], padding: int) -> AudioNoiseBatch:
    """Some items of a batch, with another amount of padding."""

    def pad(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x[items, : int(batch.audio_len[items].max())], (0, padding))

    return AudioNoiseBatch(
        audio=pad(batch.audio),
        audio_len=batch.audio_len[items],
        noise=pad(batch.noise),
        noise_len=batch.noise_len[items],
        seeds=batch.seeds[items],
        talkers=[batch.talkers[item] for item in items],
    )


@FEW
@given(batches(), augmentations())
def test_only_the_noise_within_the_length_of_an_item_is_touched(batch, augmentation):
    mixed = augmentation(copied(batch))
    assert torch.equal(mixed.audio, batch.audio) and torch.equal(mixed.audio_len, batch.audio_len)
    assert torch.equal(mixed.noisy_audio, mixed.audio + mixed.noise)
    assert torch.equal(mixed.noisy_audio_len, batch.audio_len)
    assert mixed.noise.isfinite().all()
    for i, length in enumerate(batch.audio_len.tolist()):
        assert not mixed.noise[i, length:].any() and not mixed.noisy_audio[i, length:].any()
        assert int(mixed.noise_len[i]) in (length, int(batch.noise_len[i]))


@FEW
@given(batches(min_items=2, min_samples=1), augmentations(prob=1.0))
def test_the_energy_ratio_is_the_drawn_one(batch, augmentation):
    """Of the utterance to all that is added, or (one stretch) of the two per sample: NeMo 3.0.0's definitions."""
    mixed = augmentation(copied(batch))
    for i, (_, drawn_db) in enumerate(augmentation.drawn):
        audio = mixed.audio[i, : mixed.audio_len[i]].double()
        added = mixed.noise[i, : mixed.audio_len[i]].double()
        per_sample = (
            1 if isinstance(augmentation, MultiSpeakerNoiseAugmentation) else int((added != 0).sum()) / len(audio)
        )
        measured_db = 10 * math.log10(audio.square().sum() * per_sample / added.square().sum())
        assert abs(measured_db - drawn_db) < 0.01  # the promise is 0.1


@FEW
@given(batches(with_talkers=True), augmentations(), st.data())
def test_with_talkers_an_item_is_mixed_alike_in_any_batch(batch, augmentation, data):
    together = augmentation(copied(batch))
    items = data.draw(st.lists(st.sampled_from(range(len(batch))), min_size=1, max_size=4, unique=True))
    others = augmentation(rows(batch, items, padding=data.draw(st.integers(0, 20))))
    for row, item in enumerate(items):
        length = int(batch.audio_len[item])
        assert torch.equal(others.noise[row, :length], together.noise[item, :length])
        assert others.noise_len[row] == together.noise_len[item]
