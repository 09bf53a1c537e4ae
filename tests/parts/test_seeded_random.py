import torch

from parts.seeded_random import seeded_uniform


def test_splitmix64_is_splitmix64():
    def reference(x: int) -> int:  # the published C code, on Python's unbounded integers
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    seed, stream = -5, 3
    start = reference((reference(seed % 2**64) + stream * 2**32) % 2**64)
    expected = [(reference((start + (t + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 40) / 2**24 for t in range(100)]
    assert seeded_uniform(torch.tensor([seed]), 100, stream=stream)[0].tolist() == expected


def test_a_row_depends_on_its_seed_alone():
    alone = seeded_uniform(torch.tensor([7]), 5)
    together = seeded_uniform(torch.tensor([1, 7, 9]), 50)
    assert torch.equal(together[1:2, :5], alone)


def test_numbers_are_uniform_and_independent_between_rows_seeds_and_streams():
    seeds = torch.arange(2000)
    first, second = seeded_uniform(seeds, 100), seeded_uniform(seeds, 100, stream=1)
    assert first.min() >= 0.0 and first.max() < 1.0
    counts = torch.histc(first, 20, 0, 1)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 44  # chi squared of 19 degrees of freedom, p = 0.001
    for other in (first.roll(1, 0), first.roll(1, 1), second):
        assert torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1].abs() < 0.01
