"""`Dataset` and `IterableDataset`: torch's, with a collate function that belongs to the data."""

from torch.utils import data

from core.classes.serialization import Serialization
from core.classes.typecheck import Typing


class Collates(Typing, Serialization):
    """A subclass says in `_collate_fn` how its items become a batch; loaders are given `dataset.collate_fn`."""

    def _collate_fn(self, batch: list) -> object:
        return data.default_collate(batch)

    def collate_fn(self, batch: list) -> object:
        """List of items -> batch."""
        return self._collate_fn(batch)


class Dataset(Collates, data.Dataset):
    """Items by index."""


class IterableDataset(Collates, data.IterableDataset):
    """Items in the order they stream."""
