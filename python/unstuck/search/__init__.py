"""Black-box searches that ask for losses and are told them: they never call the objective.

Examples
--------
>>> import torch
>>> from unstuck.search import AttentionSearch
>>> search = AttentionSearch(torch.full((5,), 3.0), sigma0=1.0, seed=1)
>>> while search.nfev < 4000 and not search.stop():
...     search.tell(search.ask().square().sum(1))
>>> search.best.f < 1e-6
True
"""

from unstuck.search._base import Best, Search
from unstuck.search.attention import AttentionSearch

__all__ = ["AttentionSearch", "Best", "Search"]
