"""Initialisations of the synthetic pairs, one file each."""

from vldd_dist.distillation.initialisations.base import Initialisation, Start, starting_pairs

__all__ = ["Initialisation", "Start", "starting_pairs"]
