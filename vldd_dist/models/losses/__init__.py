"""Losses of dual encoders on a batch of pairs, one file each."""

from vldd_dist.models.losses.base import Learned, Loss

__all__ = ["Learned", "Loss"]
