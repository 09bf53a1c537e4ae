"""NeMo's streams of tar shards and buckets."""

from torch.utils.data import IterableDataset

from data.ssl_dataset import audio_noise_dataloader, get_audio_noise_dataset_from_config
from data.tarred_dataset import TarredAudioNoiseDataset


def test_a_stream_of_shards_gives_each_rank_its_own_and_shuffles_shards(shards):
    def stream(rank: int = 0, **section) -> list[str]:
        dataset = get_audio_noise_dataset_from_config(shards(shuffle_n=0) | section, rank, 3)
        assert isinstance(dataset, IterableDataset) and len(dataset) == 6
        return [item.sample_id for item in dataset]

    assert [stream(rank) for rank in range(3)] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert stream(tarred_shard_strategy="replicate") == [str(i) for i in range(6)]
    replicated = shards(shuffle_n=8, tarred_shard_strategy="replicate")
    dataset = get_audio_noise_dataset_from_config(replicated, 0, 1)
    passes = {tuple(item.sample_id for item in dataset) for _ in range(8)}
    assert len(passes) > 1 and all(sorted(names) == [str(i) for i in range(6)] for names in passes)


def test_a_stream_of_some_shards_counts_and_numbers_all_lines_as_nemo_does(shards, tmp_path):
    """NeMo 3.0.0, given audio_2 and audio_0 of these three: length 6, ids 4, 5, 0, 1."""
    tars = [str(tmp_path / f"audio_{number}.tar") for number in (2, 0)]
    stream = get_audio_noise_dataset_from_config(shards(tarred_audio_filepaths=tars, shuffle=False))
    assert len(stream) == 6 and [item.sample_id for item in stream] == ["4", "5", "0", "1"]
    assert sum(map(len, audio_noise_dataloader(shards(tarred_audio_filepaths=tars)))) == 4


def test_a_stream_of_buckets_with_sizes_gives_batches(buckets):
    section = buckets(batch_size=1, bucketing_batch_size=[4, 2], bucketing_strategy="fixed_order", shuffle=False)
    stream = get_audio_noise_dataset_from_config(section)
    batches = [stream.collate_fn([items]) for items in stream]
    assert [len(batch) for batch in batches] == [4, 2, 2, 2] and len(stream) == 4


def test_the_constructor_is_nemos(shards):
    section = shards()
    paths = {
        "audio_tar_filepaths": section["tarred_audio_filepaths"],
        "manifest_filepath": section["manifest_filepath"],
    }
    stream = TarredAudioNoiseDataset(section["noise_manifest"], None, 0.3, "zero", **paths, sample_rate=16000)
    items = list(stream)
    assert [item.sample_id for item in items] == [str(i) for i in range(6)]
    assert {int(item.audio_len) for item in items} == {4800} and len(stream.collate_fn(items)) == 6
    seeds = [[item.seed for item in passed] for passed in (items, stream)]
    assert not {*seeds[0]} & {*seeds[1]}  # the next pass draws anew
