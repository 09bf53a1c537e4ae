from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, IterableDataset, Subset

from utils.loaders import each_loader, from_loaders, num_samples


@pytest.mark.parametrize(
    ("held", "loaders"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ({"x": "a", "y": "b"}, ["a", "b"]), ([], [])]
)
def test_loaders_are_found_however_they_are_held(held, loaders):
    assert list(each_loader(held)) == loaders


def test_the_loader_comes_before_the_data_set_in_it():
    inner = SimpleNamespace(name="inner")
    assert from_loaders(SimpleNamespace(name="outer", dataset=inner), "name") == ["outer"]
    assert from_loaders(SimpleNamespace(dataset=SimpleNamespace(dataset=inner)), "name") == ["inner"]
    assert from_loaders([SimpleNamespace(dataset=inner), None, object()], "name") == ["inner"]


def test_samples_are_those_of_the_innermost_data_set_of_known_length():
    class Endless(IterableDataset):
        def __iter__(self):
            yield 1

    by_the_batch = Subset([1, 2, 3, 4], [0])
    assert num_samples([DataLoader([1, 2, 3]), DataLoader(by_the_batch), DataLoader(Endless()), None]) == 7
