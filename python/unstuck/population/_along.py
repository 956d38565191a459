"""A line through the parameters, with products that make use of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor

from unstuck.population._closure import Function
from unstuck.population._swap import Replace

# Functions of (input, weight, bias) that are linear in the weight and the bias together.
LAYERS = {
    F.linear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
}
PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.mm}


def three(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
    """Return input, weight, bias and the rest of a layer's arguments."""
    rest, named = args[3:], dict(kwargs)
    taken = [
        args[i] if len(args) > i else named.pop(name, None)
        for i, name in enumerate(("input", "weight", "bias"))
    ]
    return taken[0], taken[1], taken[2], rest, named


def renormalises(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an embedding writes to its weight."""
    return (args[3] if len(args) > 3 else kwargs.get("max_norm")) is not None


class Line(Replace):
    """Parameters ``w - r d``, where layers compute ``f(h, w) - r f(h, d)``.

    Under vmap over r the first layers' products are shared by all rates, and the others are two
    products of all activations stacked. Where a later layer is so small that its weights at all
    rates take no more than the activations, these are made for the time of one product.

    Parameters
    ----------
    params, direction : sequence of Tensor
        w and d.
    rate : Tensor
        r, one number.
    """

    def __init__(self, params: Sequence[Tensor], direction: Sequence[Tensor], rate: Tensor) -> None:
        super().__init__((), ())
        self._ways = {id(p): d for p, d in zip(params, direction, strict=True)}
        self._rate = rate

    def value(self, tensor: Tensor) -> Tensor | None:
        """Return ``w - r d``, made anew at every use."""
        if (way := self._ways.get(id(tensor))) is None:
            return super().value(tensor)
        return self._step(tensor, way)

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a layer twice, any other function with values."""
        if func in LAYERS:
            h, w, b, rest, named = three(args, kwargs)
            d = self._ways.get(id(w))
            if d is not None and not (func is F.linear and self._cheap(h, w)):
                h, e = self.put(h), self._ways.get(id(b))
                return self._step(func(h, w, b, *rest, **named), func(h, d, e, *rest, **named))
        elif func in PRODUCTS and len(args) == 2:
            ways = [self._ways.get(id(x)) for x in args]
            if ways[0] is not None and ways[1] is None:
                other = self.put(args[1])
                return self._step(func(args[0], other), func(ways[0], other))
            if ways[1] is not None and ways[0] is None:
                other = self.put(args[0])
                return self._step(func(other, args[1]), func(other, ways[1]))
        elif func is F.embedding and len(args) >= 2:
            d = self._ways.get(id(args[1]))
            if d is not None and not renormalises(args, kwargs):
                index, rest = args[0], args[2:]
                here, there = (func(index, x, *rest, **kwargs) for x in (args[1], d))
                return self._step(here, there)
        return super().call(func, args, kwargs)

    def _cheap(self, h: Any, w: Tensor) -> bool:
        """Whether weights for every rate take less than the activations, and half the products."""
        n = h.numel() // w.shape[-1] if isinstance(h, Tensor) else 0
        return is_batchedtensor(h) and w.numel() <= n * sum(w.shape)

    def _step(self, here: Tensor, there: Tensor) -> Tensor:
        return torch.addcmul(here, self._rate.to(here.device, here.dtype), there, value=-1)
