"""Small networks on real data as tasks, and families that draw them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unstuck.learned.functions import in_units
from unstuck.learned.task import Batch, Task, generator
from unstuck.problems import DATA, Split, Splits, load_data, lookup

__all__ = ["ACTIVATIONS", "Network", "Networks"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
}
KERNEL = 3  # side of a convolution


@functools.cache
def _data(name: str) -> Splits:
    return load_data(name, seed=0)


@functools.lru_cache(maxsize=16)
def _rotation(inputs: int, features: int, seed: int) -> Tensor:
    """Return a random map [inputs, features] that keeps the size of standardised inputs."""
    return torch.randn(inputs, features, generator=generator("map", seed)) / math.sqrt(inputs)


@dataclass(frozen=True)
class Network:
    """A classifier on one of the data sets of :func:`unstuck.problems.load_data`.

    Parameters
    ----------
    data : str
        One of ``DATA``.
    hidden : tuple of int
        Units of each hidden layer.
    activation : str
        One of ``ACTIVATIONS``.
    batch_size : int
        Rows of a training batch.
    channels : tuple of int
        Channels of the 3-wide convolutions before the hidden layers, each halves the sides; none
        makes it a multi-layer perceptron.
    scale : float
        What weights begin as, times torch's default.
    features : int
        Where above 0, inputs are mapped to so many by a random matrix: another task with the same
        data. Only without convolutions.
    seed : int
        Decides that matrix.

    Raises
    ------
    ValueError
        For a name that is not known, or sizes that no network has.

    Examples
    --------
    >>> task = Network("digits", (16,))
    >>> task.name, sum(p.numel() for p in task.initial(0))
    ('digits 64-16-10 relu, batches of 64', 1210)
    >>> 2.0 < task.loss(task.initial(0), task.batch(0)) < 2.7
    tensor(True)
    """

    data: str
    hidden: tuple[int, ...] = (32,)
    activation: str = "relu"
    batch_size: int = 64
    channels: tuple[int, ...] = ()
    scale: float = 1.0
    features: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        lookup(DATA, self.data, "data set")
        lookup(ACTIVATIONS, self.activation, "activation")
        if min((*self.hidden, *self.channels, self.batch_size)) < 1:
            raise ValueError(
                f"hidden={self.hidden}, channels={self.channels} and batch_size={self.batch_size} "
                "must be at least 1"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a positive number, not {self.scale}")
        if self.features < 0 or (self.features and self.channels):
            raise ValueError(
                f"features={self.features} must be at least 0, and 0 with channels={self.channels}:"
                " a convolution needs inputs that are neighbours"
            )

    @property
    def name(self) -> str:
        """Data, sizes and activation."""
        sizes = [*self.channels, *self.hidden] if self.channels else self._sizes()[:-1]
        kind = "conv " if self.channels else ""
        text = "-".join(map(str, [*sizes, _data(self.data).classes]))
        return f"{self.data} {kind}{text} {self.activation}, batches of {self.batch_size}"

    @property
    def floor(self) -> float:
        """No cross-entropy is below 0."""
        return 0.0

    def _sizes(self) -> list[int]:
        """Return the units of all fully connected layers, inputs first."""
        data = _data(self.data)
        inputs = self.features or math.prod(data.shape)
        if self.channels:
            sides = [side // 2 ** len(self.channels) for side in data.shape[1:]]
            if min(sides) < 1:
                raise ValueError(
                    f"inputs of shape {data.shape} cannot be halved {len(self.channels)} times: "
                    "use fewer channels"
                )
            inputs = self.channels[-1] * math.prod(sides)
        return [inputs, *self.hidden, data.classes]

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the parameters: of each layer the weight, then the bias."""
        shape = _data(self.data).shape
        window = (KERNEL,) * (len(shape) - 1)
        out: list[tuple[int, ...]] = []
        for before, after in zip((shape[0], *self.channels), self.channels, strict=False):
            out += [(after, before, *window), (after,)]
        sizes = self._sizes()
        for before, after in itertools.pairwise(sizes):
            out += [(after, before), (after,)]
        return out

    def initial(self, seed: int) -> list[Tensor]:
        """Return weights and biases as torch's layers begin with, the weights times `scale`."""
        draw, params, bound = generator("weights", seed), [], 1.0
        for shape in self.shapes():
            if len(shape) > 1:
                bound = 1 / math.sqrt(math.prod(shape[1:]))
            size = bound * (self.scale if len(shape) > 1 else 1.0)
            params.append(size * (2 * torch.rand(shape, generator=draw) - 1))
        return params

    def batch(self, seed: int) -> Batch:
        """Return rows of the training data, drawn with replacement, and their classes."""
        return self._rows(_data(self.data).train, self.batch_size, seed)

    def validation(self, seed: int) -> Batch:
        """Return rows of the validation data, twice a batch but 256 at least, and their classes."""
        return self._rows(_data(self.data).validation, max(256, 2 * self.batch_size), seed)

    def _rows(self, split: Split, count: int, seed: int) -> Batch:
        rows = torch.randint(len(split), (count,), generator=generator("rows", seed))
        return self._inputs(split.x[rows]), split.y[rows]

    def _inputs(self, x: Tensor) -> Tensor:
        """Return inputs as the network takes them."""
        if self.channels:
            return x
        x = x.flatten(1)
        return x @ _rotation(x.shape[1], self.features, self.seed) if self.features else x

    def everything(self, part: str) -> Batch:
        """Return all rows of a part of the data, ``"train"``, ``"validation"`` or ``"test"``."""
        parts = {name: getattr(_data(self.data), name) for name in ("train", "validation", "test")}
        split = lookup(parts, part, "part")
        return self._inputs(split.x), split.y

    def logits(self, params: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return the outputs [n, classes] of inputs [n, ...]."""
        activation = ACTIVATIONS[self.activation]
        convolve, pool = (F.conv2d, F.avg_pool2d) if x.ndim == 4 else (F.conv1d, F.avg_pool1d)
        layers = list(zip(params[::2], params[1::2], strict=True))
        for weight, bias in layers[: len(self.channels)]:
            x = pool(activation(convolve(x, weight, bias, padding=KERNEL // 2)), 2)
        if self.channels:
            x = x.flatten(1)
        for weight, bias in layers[len(self.channels) : -1]:
            x = activation(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])

    def loss(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the mean cross-entropy."""
        x, y = batch
        return F.cross_entropy(self.logits(params, x), y)


@dataclass(frozen=True)
class Networks:
    """Networks of sampled data, sizes, activation, initial scale, batch size and units.

    Widths, batch sizes and scales are log-uniform, everything else uniform.

    Parameters
    ----------
    name : str
        Its name.
    data : tuple of str
        Data sets.
    width : tuple of int
        Lowest and highest number of units of a hidden layer; each layer draws its own.
    depth : tuple of int
        Lowest and highest number of hidden layers.
    activations : tuple of str
        Which.
    batch : tuple of int
        Lowest and highest batch size.
    channels : tuple of tuple of int
        Choices of channels; ``()`` is a multi-layer perceptron.
    scale : tuple of float
        Lowest and highest initial scale.
    features : tuple of int
        Lowest and highest number of inputs after a random map; (0, 0) keeps the data as they are.
    units : float
        Half the range, in decades, of the random units of each tensor; 0 for none.

    Examples
    --------
    >>> Networks("small", ("digits",), width=(8, 16), units=0.0).sample(seed=3).name
    'digits 64-8-10 relu, batches of 64'
    """

    name: str
    data: tuple[str, ...]
    width: tuple[int, int] = (16, 64)
    depth: tuple[int, int] = (1, 1)
    activations: tuple[str, ...] = ("relu",)
    batch: tuple[int, int] = (64, 64)
    channels: tuple[tuple[int, ...], ...] = ((),)
    scale: tuple[float, float] = (1.0, 1.0)
    features: tuple[int, int] = (0, 0)
    units: float = 0.5

    def sample(self, seed: int) -> Task:
        """Return a network."""
        draw = generator("network", seed)

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=draw))

        def whole(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=draw))

        def spread(low: float, high: float) -> float:
            return math.exp(uniform(math.log(low), math.log(high)))

        channels = self.channels[whole(0, len(self.channels) - 1)]
        hidden = tuple(round(spread(*self.width)) for _ in range(whole(*self.depth)))
        features = self.features != (0, 0) and not channels
        task = Network(
            self.data[whole(0, len(self.data) - 1)],
            hidden,
            self.activations[whole(0, len(self.activations) - 1)],
            round(spread(*self.batch)),
            channels,
            spread(*self.scale),
            round(spread(*self.features)) if features else 0,
            seed,
        )
        return in_units(task, len(task.shapes()), self.units, seed)
