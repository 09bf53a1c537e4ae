import torch
from lightning.pytorch.utilities import move_data_to_device

from parts.batch_types import AudioNoiseBatch


def test_lightning_moves_the_tensors_of_a_batch():
    batch = AudioNoiseBatch(sample_id=["a"], audio=torch.zeros(1, 4), seeds=torch.tensor([3]))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.audio.device.type == moved.seeds.device.type == "meta"
    assert moved.sample_id == ["a"] and moved.noise is None
