"""Two gloo processes with a part of the batch each, against one process with all of it."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.two_ranks import two_ranks
from utils.training.sync_batchnorm import SyncBatchNorm, SyncBatchNormOnCpu

CHANNELS = 3
MOMENTA = (0.1, None)  # None: running statistics are the mean of all batches so far


def parts() -> list[Tensor]:
    """The share of each rank: different numbers of items and of frames, far from mean 0."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, CHANNELS, frames, generator=generator) * 2 + 5 for size, frames in ((2, 7), (3, 4))]


def loss_of(outputs: list[Tensor]) -> Tensor:
    return sum((output.cos() * output).sum() for output in outputs)


def model(momentum: float | None) -> nn.Module:
    norm = nn.BatchNorm1d(CHANNELS, momentum=momentum)
    nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return nn.Sequential(norm)


def run_rank(rank: int) -> dict[float | str | None, dict]:
    """What a rank computes with each momentum, and beside nothing."""
    results = {"nothing": beside_nothing(rank)}
    for momentum in MOMENTA:
        synced = SyncBatchNormOnCpu().apply(model(momentum))
        part = parts()[rank].requires_grad_()
        for _ in range(2):
            output = synced(part)
        loss_of([output]).backward()
        grads = {name: p.grad for name, p in synced.named_parameters()}
        state = synced.state_dict()
        results[momentum] = {"output": output, "input_grad": part.grad, "grads": grads, "state": state}
    return results


def beside_nothing(rank: int) -> dict:
    """What a rank computes where the second one has no items, in the first step, or none has, in the second."""
    synced = SyncBatchNormOnCpu().apply(model(0.1))
    part = parts()[0] if rank == 0 else torch.zeros(0, CHANNELS, 4)
    output = synced(part)
    loss_of([output]).backward()
    synced(torch.zeros(0, CHANNELS, 4)).sum().backward()
    return {"output": output, "grads": [p.grad for p in synced.parameters()], "state": synced.state_dict()}


@pytest.fixture(scope="module")
def computed() -> Callable[[float | str | None], list[dict]]:
    """momentum -> what each rank computed"""
    ranks = two_ranks(run_rank)
    return lambda name: [results[name] for results in ranks]


def joined(momentum: float | None) -> tuple[list[Tensor], list[Tensor], nn.Module]:
    """Outputs and input gradients per part, and the model, of one process: BatchNorm1d over all frames at once."""
    whole, inputs = model(momentum), [part.requires_grad_() for part in parts()]
    frames = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in inputs])  # (sum of B * T, C)
    for _ in range(2):
        flat = whole(frames)
    pieces = flat.split([part.shape[0] * part.shape[2] for part in inputs])
    outputs = [piece.unflatten(0, (p.shape[0], p.shape[2])).transpose(1, 2) for piece, p in zip(pieces, inputs)]
    loss_of(outputs).backward()
    return outputs, [part.grad for part in inputs], whole


@pytest.mark.parametrize("momentum", MOMENTA)
def test_two_ranks_compute_what_one_does_with_the_joined_batch(computed, momentum):
    ranks = computed(momentum)
    outputs, input_grads, whole = joined(momentum)
    for rank, output, grad in zip(ranks, outputs, input_grads):
        torch.testing.assert_close(rank["output"], output, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rank["input_grad"], grad, rtol=1e-4, atol=1e-5)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(rank["state"][name], value, rtol=1e-5, atol=1e-5)
    for name, parameter in whole.named_parameters():  # DDP sums (and averages) these over ranks
        total = ranks[0]["grads"][name] + ranks[1]["grads"][name]
        torch.testing.assert_close(total, parameter.grad, rtol=1e-4, atol=1e-4)


def test_state_dict_has_the_keys_of_torch(computed):
    keys = nn.Sequential(nn.SyncBatchNorm(CHANNELS)).state_dict().keys()
    assert computed(0.1)[0]["state"].keys() == keys


@pytest.mark.parametrize("training", [True, False])
def test_a_single_process_computes_plain_batch_norm(training):
    plain, synced = model(0.1).train(training), SyncBatchNormOnCpu().apply(model(0.1)).train(training)
    assert type(synced[0]) is SyncBatchNorm
    x = parts()[0]
    torch.testing.assert_close(synced(x), plain(x), rtol=0, atol=0)
    torch.testing.assert_close(synced.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_after_the_fit_the_layers_are_what_they_were():
    layer_sync = SyncBatchNormOnCpu()
    layers = model(0.1)
    state = layers.state_dict()
    reverted = layer_sync.revert(layer_sync.apply(layers))
    assert type(reverted[0]) is nn.BatchNorm1d
    torch.testing.assert_close(reverted.state_dict(), state, rtol=0, atol=0)


def test_torchs_own_refuses_to_run_on_cpu_over_ranks(tmp_path):
    """The reason why ours exists: without this error we'd use torch's."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="expected input tensor to be on GPU"):
            nn.SyncBatchNorm(CHANNELS)(parts()[0])
    finally:
        dist.destroy_process_group()


def test_a_rank_without_items_takes_part_and_changes_nothing(computed):
    alone = model(0.1)
    output = alone(parts()[0])
    loss_of([output]).backward()
    one, other = computed("nothing")
    torch.testing.assert_close(one["output"], output)
    torch.testing.assert_close(one["grads"], [p.grad for p in alone.parameters()])
    for name in ("0.running_mean", "0.running_var"):
        torch.testing.assert_close(one["state"][name], alone.state_dict()[name])
        torch.testing.assert_close(other["state"][name], one["state"][name])
