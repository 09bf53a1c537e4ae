"""Losses of self-supervised training."""

from losses.ssl_losses.mlm import MLMLoss, MultiMLMLoss, masked_prediction_loss

__all__ = ["MLMLoss", "MultiMLMLoss", "masked_prediction_loss"]
