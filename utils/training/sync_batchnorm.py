"""Batch norm whose statistics are those of all ranks together, on CPUs, where torch's SyncBatchNorm refuses to run."""

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import LayerSync
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


class SyncBatchNorm(_BatchNorm):
    """Parameters, buffers and numbers of torch's SyncBatchNorm, from any process group.

    In training the batches of all ranks are normalised as one, so ranks may hold different numbers of items and of
    frames; one process with the joined batch gives the same outputs, gradients and running statistics.
    No subclass of torch's, which DistributedDataParallel refuses on CPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, ...) -> (B, C, ...)"""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        other_axes = [axis for axis in range(x.dim()) if axis != 1]
        per_channel = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        values = x.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = SumOverRanks.apply(torch.cat([values.sum(other_axes), count]))
        count = total[-1].detach().clamp(min=1)  # no rank may have any
        mean = total[:-1] / count                                                    # (C,)
        centred = values - mean.view(per_channel)
        variance = SumOverRanks.apply(centred.square().sum(other_axes)) / count      # (C,)
        if total[-1] > 0:
            self._update_running(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(per_channel)
        if self.affine:
            normalised = normalised * self.weight.view(per_channel) + self.bias.view(per_channel)
        return normalised.to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes will do."""

    def _update_running(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased_variance, share)


class SyncBatchNormOnCpu(LayerSync):
    """What `trainer.sync_batchnorm: true` means for several processes on CPUs: while they fit, batch norms are synced.

    A layer keeps its parameters and buffers and changes its class, so state dicts and optimizers see no difference.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer._class_alone, layer.__class__ = layer.__class__, SyncBatchNorm
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, SyncBatchNorm):
                layer.__class__ = layer._class_alone
        return model
