"""Several processes that compute together: the only files that know torch.distributed.

    ranks   the processes as one of them sees them, and what they send each other
    joined  how they find each other, and how they part: after the work, or when one of them fails
    pulse   how a rank learns that another has failed or is gone

A rank is a process, numbered from 0. All ranks make the same calls in the same order.
"""

from tercet.collectives.joined import joined, local_device, started_together
from tercet.collectives.ranks import ALONE, Ranks, current_ranks

__all__ = ["ALONE", "Ranks", "current_ranks", "joined", "local_device", "started_together"]
