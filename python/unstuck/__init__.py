"""Optimizers that do not stay stuck: fused native steps for PyTorch.

Examples
--------
>>> import torch, unstuck
>>> model = torch.nn.Linear(4, 1)
>>> optimizer = unstuck.optim.DynamicBlend(model.parameters())
>>> model(torch.ones(8, 4)).square().mean().backward()
>>> optimizer.step()
"""

from importlib.metadata import PackageNotFoundError, version

from unstuck import optim, search

__all__ = ["__version__", "optim", "search"]

try:
    __version__ = version("unstuck")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
