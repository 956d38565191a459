"""Small classifiers, sized from the data they are for."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from unstuck.problems._registry import lookup
from unstuck.problems.data import Splits

Shape = tuple[int, ...]


def logistic(shape: Shape, classes: int) -> nn.Module:
    """Multinomial logistic regression: one linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Two hidden ReLU layers of 256: 40-256-256-10 on mnist1d."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )


def conv(shape: Shape, classes: int) -> nn.Module:
    """Two 3-wide convolutions (16, 32 channels), each pooled by 2, then one linear layer."""
    channels, *extent = shape
    if len(extent) not in (1, 2) or min(extent) < 4:
        raise ValueError(
            f"the model 'conv' takes signals [channels, length] or images [channels, height, "
            f"width] of at least 4 a side, not inputs of shape {shape}: take 'mlp' or 'logistic'"
        )
    convolution: Callable[..., nn.Module] = (nn.Conv1d, nn.Conv2d)[len(extent) - 1]
    pool: Callable[[int], nn.Module] = (nn.MaxPool1d, nn.MaxPool2d)[len(extent) - 1]
    return nn.Sequential(
        convolution(channels, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        pool(2),
        convolution(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        pool(2),
        nn.Flatten(),
        nn.Linear(32 * math.prod(side // 4 for side in extent), classes),
    )


MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "logistic": logistic,
    "mlp": mlp,
    "conv": conv,
}


def make_model(name: str, data: Splits, seed: int = 0) -> nn.Module:
    """Build a classifier for a data set, with initial weights that depend on ``seed`` alone.

    The weights are drawn on the CPU, so that a seed means the same on every device; torch's
    global generator is left as it was.

    Parameters
    ----------
    name : str
        ``"logistic"``, ``"mlp"`` or ``"conv"`` (see ``MODELS``).
    data : Splits
        The data the model is for: gives input shape, number of classes, device and dtype.
    seed : int
        Seed of the initial weights.

    Returns
    -------
    torch.nn.Module
        Maps inputs ``[N, channels, ...]`` to logits ``[N, classes]``.

    Raises
    ------
    ValueError
        For an unknown name, or inputs the model cannot take.

    Examples
    --------
    >>> from unstuck.problems import load_data
    >>> data = load_data("digits")
    >>> make_model("mlp", data, seed=0)(data.test.x).shape
    torch.Size([359, 10])
    """
    build = lookup(MODELS, name, "model")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(data.shape, data.classes)
    return model.to(data.train.x.device, data.train.x.dtype)
