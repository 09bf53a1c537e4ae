"""Items and batches of a data section, as one side reads them through its own public functions."""

from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from tools.parity.cases import Levels
from tools.parity.records import Job
from tools.parity.side import Side

STEP = 31  # of a record that is kept, one sample in so many: what goes wrong goes wrong along a whole utterance
TENSORS = ("audio", "audio_len", "noise", "noise_len", "noisy_audio", "noisy_audio_len")


@dataclass
class Reading:
    """tensors: by `item 0/audio`, `batch 0/noise_len`. facts: JSON; what raised, shapes, numbers of items."""

    step: int
    tensors: Levels = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def keep(self, name: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        self.facts[f"{name}/form"] = [str(tensor.dtype).removeprefix("torch."), *tensor.shape]
        if tensor.ndim < 2 or not name.startswith("item"):  # several channels can't be compared, and are large
            self.tensors[name] = tensor[..., :: self.step] if tensor.is_floating_point() else tensor


def read(side: Side, section: dict, num_items: int, num_batches: int) -> Reading:
    """The first items and batches. What raises is noted, and the rest goes on."""
    reading = Reading(step_of(side.job))
    try:
        dataset = open_dataset(side, section)
        reading.facts["items"] = len(dataset)
    except Exception as error:
        reading.facts["raised"] = said(error)
        return reading
    for index in range(min(num_items, len(dataset))):
        read_item(dataset, index, reading)
    if num_batches == 0:
        return reading
    try:
        batches = open_loader(side, section, dataset)
        reading.facts["batches"] = len(batches)
        for number, batch in enumerate(islice(batches, num_batches)):
            keep_all(f"batch {number}", batch, reading)
    except Exception as error:
        reading.facts["batches raised"] = said(error)
    return reading


def step_of(job: Job) -> int:
    return STEP if job.brief_trace else 1


def read_item(dataset, index: int, reading: Reading) -> None:
    name = f"item {index}"
    try:
        item = dataset[index]
    except Exception as error:
        reading.facts[f"{name}/raised"] = said(error)
        return
    keep_all(name, item, reading)
    replaced = [bad.detail for bad in getattr(item, "rejected", ()) if not bad.reason.startswith("noise_")]
    if replaced or item.audio is None:
        reading.facts[f"{name}/replaced"] = "; ".join(replaced) or "nothing usable"


def keep_all(name: str, of, reading: Reading) -> None:
    """The tensors of an item or a batch."""
    for tensor in TENSORS:
        reading.keep(f"{name}/{tensor}", getattr(of, tensor))


def open_dataset(side: Side, section: dict):
    datasets = import_module(f"{side.package}data.ssl_dataset")
    know_targets(side)
    return datasets.get_audio_noise_dataset_from_config(OmegaConf.create(section), 0, 1)


def open_loader(side: Side, section: dict, dataset) -> DataLoader:
    """As the side's own model makes it."""
    if not side.is_nemo:
        datasets = import_module(f"{side.package}data.ssl_dataset")
        return datasets.audio_noise_dataloader(OmegaConf.create(section))
    options = {name: section[name] for name in ("batch_size", "drop_last", "shuffle", "num_workers")}
    return DataLoader(dataset, collate_fn=dataset.collate_fn, **options)


def know_targets(side: Side) -> None:
    """Ours takes class paths of a config from a table that this import fills."""
    if not side.is_nemo:
        import_module(f"{side.package}models.targets")


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
