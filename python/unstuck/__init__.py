"""Optimizers and searches that do not stay stuck, with native steps, for PyTorch.

Examples
--------
>>> import torch, unstuck
>>> model = torch.nn.Linear(4, 1)
>>> optimizer = unstuck.optim.DynamicBlend(model.parameters())
>>> model(torch.ones(8, 4)).square().mean().backward()
>>> optimizer.step()
>>> unstuck.minimize("rastrigin", bounds=[(-5, 5)] * 4, budget=1000, seed=0).nfev
1000
"""

from importlib.metadata import PackageNotFoundError, version

from unstuck import optim, problems, search
from unstuck.minimize import OptimizeResult, minimize

__all__ = ["OptimizeResult", "__version__", "minimize", "optim", "problems", "search"]

try:
    __version__ = version("unstuck")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
