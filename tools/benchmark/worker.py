"""Measures one side, ours or NeMo's: mixing, and loading data.

    python -m tools.benchmark.worker ours|nemo     (started by tools/benchmark_data.py, in that side's environment)

Both sides get the same arguments; what they are called by is the same, but for the loader.
"""

import importlib
import random
import sys
import time

import numpy as np
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from tools.peak_memory import peak_bytes
from tools.side_process import serve

MODULES = {
    "ours": ("data.ssl_dataset", "modules.ssl_modules.augmentation", "models.targets"),  # the last knows _target_s
    "nemo": ("nemo.collections.asr.data.ssl_dataset", "nemo.collections.asr.modules.ssl_modules.augmentation"),
}
RATE = 16000


class Side:
    """Data sets and augmentation of ours or of NeMo."""

    def __init__(self, name: str):
        torch.set_num_threads(1)
        self.name = name
        self.datasets, self.augmentation, *_ = (importlib.import_module(module) for module in MODULES[name])

    def mix(self, seconds: float, batch_size: int, seed: int, options: dict) -> dict:
        """Seconds for mixing one batch of utterances of this length, each with noise of its length."""
        rng = np.random.default_rng(seed)
        audio, noise = (
            torch.from_numpy(0.1 * rng.standard_normal((batch_size, int(seconds * RATE)), np.float32)) for _ in range(2)
        )
        lengths = torch.full((batch_size,), audio.shape[1])
        batch = self.datasets.AudioNoiseBatch(
            audio=audio, audio_len=lengths, noise=noise, noise_len=lengths.clone(), noisy_audio=None
        )
        if self.name == "ours":
            batch.seeds = torch.from_numpy(rng.integers(2**63, size=batch_size))
        augment = self.augmentation.MultiSpeakerNoiseAugmentation(**options)
        start = time.perf_counter()
        augment(batch)
        return {"seconds": time.perf_counter() - start}

    def epoch(self, section: dict, seed: int) -> dict:
        """Seconds of each batch, from the data set through collate. With workers: as they arrive, after the first."""
        batches = iter(self.loader(section, seed))
        if section["num_workers"]:
            next(batches)
        seconds, items = [], 0
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return {"seconds": seconds, "items": items}
            seconds.append(time.perf_counter() - start)
            items += len(batch.audio)

    def first_batch(self, section: dict, seed: int) -> dict:
        """Seconds until the data set is there and until its first batch is, and how much memory that took at most.

        bytes: None where it isn't known.
        """
        before, start = peak_bytes(), time.perf_counter()
        loader = self.loader(section, seed)
        built = time.perf_counter()
        next(iter(loader))
        seconds = time.perf_counter() - start
        return {"built": built - start, "seconds": seconds, "bytes": None if before is None else peak_bytes() - before}

    def loader(self, section: dict, seed: int) -> DataLoader:
        """As the side's own recipe makes it."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        config = OmegaConf.create(section)
        if self.name == "ours":
            config.seed = seed
            return self.datasets.audio_noise_dataloader(config)
        dataset = self.datasets.get_audio_noise_dataset_from_config(config, 0, 1)
        return DataLoader(
            dataset,
            batch_size=config.batch_size,
            collate_fn=dataset.collate_fn,
            drop_last=config.drop_last,
            shuffle=config.shuffle,
            num_workers=config.num_workers,
        )


def main() -> None:
    side = Side(sys.argv[1])
    serve({"mix": side.mix, "epoch": side.epoch, "first_batch": side.first_batch})


if __name__ == "__main__":
    main()
