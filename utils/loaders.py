"""What the loaders of a trainer know, however Lightning holds them and whatever is wrapped in them."""

from collections.abc import Iterable


def each_loader(loaders: object) -> Iterable[object]:
    """The loaders in what Lightning calls `trainer.train_dataloader` or `trainer.val_dataloaders`."""
    if isinstance(loaders, dict):
        return loaders.values()
    return loaders if isinstance(loaders, (list, tuple)) else [loaders]


def from_loaders(loaders: object, name: str) -> list:
    """What each loader has under a name, or else the data set in it; loaders that have neither are left out."""
    found = []
    for holder in each_loader(loaders):
        while holder is not None and not hasattr(holder, name):
            holder = getattr(holder, "dataset", None)
        if holder is not None:
            found.append(getattr(holder, name))
    return found


def num_samples(loaders: object) -> int:
    """Of the data sets in the loaders, the innermost of each: those around it may count in batches.

    One whose length nobody knows adds none.
    """
    datasets = [innermost(loader) for loader in each_loader(loaders)]
    return sum(len(dataset) for dataset in datasets if hasattr(dataset, "__len__"))


def innermost(holder: object) -> object:
    while hasattr(holder, "dataset"):
        holder = holder.dataset
    return holder
