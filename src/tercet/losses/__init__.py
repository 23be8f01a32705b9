"""Losses: embeddings and labels -> a value with its gradient.

    base.py            BatchLoss: the call that all losses of a batch share
      items.py         what a call is given, checked and encoded
      gathered.py      the same of all ranks, as one batch
      labels.py        labels and ids -> codes
      label_sets.py    several labels an item -> codes
      formed.py        the gradient formed in the forward pass -> autograd
    triplet.py         TripletLoss
      margins.py       PerClassMargin
      draws.py         which negatives distance-weighted mining draws
      presets.py       other libraries' settings
    contrastive.py     ContrastiveLoss
    softmax.py         InfoNCE, SupConLoss, ClipLoss
    given.py           triplet_margin_loss, of given triplets

A new loss over a batch is a rule of the kernels, handed to `BatchLoss`, and its docstring.
"""

from tercet.kernels import TripletStats
from tercet.losses.contrastive import ContrastiveLoss
from tercet.losses.given import triplet_margin_loss
from tercet.losses.margins import PerClassMargin
from tercet.losses.softmax import ClipLoss, InfoNCE, SupConLoss
from tercet.losses.triplet import TripletLoss

__all__ = [
    "TripletLoss",
    "PerClassMargin",
    "ContrastiveLoss",
    "InfoNCE",
    "SupConLoss",
    "ClipLoss",
    "triplet_margin_loss",
    "TripletStats",
]
