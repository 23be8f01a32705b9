"""Losses: embeddings and labels -> a value with its gradient."""

from tercet.kernels import TripletStats
from tercet.losses.given import triplet_margin_loss
from tercet.losses.pair import contrastive_pair_loss
from tercet.losses.triplet import TripletLoss

__all__ = ["TripletLoss", "TripletStats", "triplet_margin_loss", "contrastive_pair_loss"]
