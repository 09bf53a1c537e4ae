"""A batch augmentor for tests, as `_target_: tests.data.HalfNoise`."""

from dataclasses import replace

from core.classes import register_targets
from parts.batch_types import AudioNoiseBatch


class HalfNoise:
    """Stands for a batch augmentor: its work is recognisable, and it can be pickled."""

    def __init__(self, share: float = 0.5):
        self.share = share

    def __call__(self, batch: AudioNoiseBatch) -> AudioNoiseBatch:
        noise = batch.noise * self.share
        mixed = {"noise": noise, "noisy_audio": batch.audio + noise, "noisy_audio_len": batch.audio_len}
        return replace(batch, **mixed, rejected=())


register_targets({"tests.data.HalfNoise": HalfNoise})
