"""Batch norm whose statistics are those of all ranks together, on CPUs too, where torch's refuses to run."""

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, its parameters, buffers and numbers, but a CPU may run it too.

    On CPUs the batches of all ranks are normalised as one, so ranks may hold different numbers of items and of
    frames; one process with the joined batch gives the same outputs, gradients and running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, ...) -> (B, C, ...)"""
        if x.device.type != "cpu":
            return super().forward(x)
        if self.training and dist.is_initialized() and dist.get_world_size() > 1:
            return self._forward_over_ranks(x)
        return _BatchNorm.forward(self, x)

    def _forward_over_ranks(self, x: Tensor) -> Tensor:
        other_axes = [axis for axis in range(x.dim()) if axis != 1]
        per_channel = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        values = x.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = SumOverRanks.apply(torch.cat([values.sum(other_axes), count]))
        count = total[-1].detach()
        mean = total[:-1] / count                                                    # (C,)
        centred = values - mean.view(per_channel)
        variance = SumOverRanks.apply(centred.square().sum(other_axes)) / count      # (C,)
        self._update_running(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(per_channel)
        if self.affine:
            normalised = normalised * self.weight.view(per_channel) + self.bias.view(per_channel)
        return normalised.to(x.dtype)

    def _update_running(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased_variance, share)


class SyncBatchNormOnAnyDevice(TorchSyncBatchNorm):
    """What `trainer.sync_batchnorm: true` puts into the model when several processes train; undone after the fit."""

    def apply(self, model: nn.Module) -> nn.Module:
        model = super().apply(model)
        for module in model.modules():
            if type(module) is nn.SyncBatchNorm:
                module.__class__ = SyncBatchNorm  # the same parameters and buffers, another forward on CPUs
        return model
