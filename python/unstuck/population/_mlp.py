"""Sees whether a closure is the loss of a plain multi-layer perceptron, without computing it.

The closure is called once with every layer's output a tensor without memory (device ``meta``), so
that nothing but shapes is worked out. What it did is the net, with the data of this very call. A
closure that does anything else with these tensors, or needs their values, is not a plain one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unstuck.ops.mlp import Layer, Net
from unstuck.population._closure import Closure, Function
from unstuck.population._swap import Replace

Arguments = tuple[Any, ...]

ACTIVATIONS: dict[Function, str] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_), "relu"),
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh), "tanh"),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid), "sigmoid"),
    F.gelu: "gelu",
}
IN_PLACE = {torch.relu_, Tensor.relu_}
LOSSES: dict[Function, str] = {
    F.mse_loss: "squared",
    F.binary_cross_entropy_with_logits: "bce",
    F.cross_entropy: "cross-entropy",
}
RESHAPES = {
    *(Tensor.squeeze, torch.squeeze, Tensor.flatten, torch.flatten),
    *(Tensor.view, Tensor.reshape, torch.reshape),
}
SHAPE: Any = Tensor.shape
NDIM: Any = Tensor.ndim
READ = {Tensor.size, Tensor.dim, SHAPE.__get__, NDIM.__get__}  # what may be asked of an output


class NotPlainError(Exception):
    """The closure is something else."""


class Record(Replace):
    """Follows the one tensor that comes from the parameters.

    Parameters
    ----------
    params : sequence of Tensor
        The parameters, as they lie in the flat vector.
    gradient : bool
        Whether gradients are wanted, of which ``torch.no_grad`` within the closure keeps some back.
    """

    def __init__(self, params: Sequence[Tensor], gradient: bool = False) -> None:
        super().__init__((), ())
        self._gradient = gradient
        self._places: dict[int, int] = {}
        self.dim = 0
        for p in params:
            self._places[id(p)] = self.dim
            self.dim += p.numel()
        self._used: set[int] = set()
        self._X: Tensor | None = None
        self._version = 0
        self._layers: list[Layer] = []
        self._now: Tensor | None = None  # the layer's output
        self._shape: tuple[int, ...] = ()  # what was made of the shape of the last one
        self._loss: tuple[Tensor, Tensor, str, float, int] | None = None

    def net(self, value: Any) -> Net | None:
        """Return the net, if what the closure returned is its loss."""
        if self._loss is None or self._X is None or value is not self._loss[0]:
            return None
        _, y, loss, factor, version = self._loss
        if self._X._version != self._version or y._version != version:
            return None
        return Net(self._X, y, tuple(self._layers), loss, factor, self.dim)

    def call(self, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Any:
        """Follow what is known of a net, and let alone what has nothing to do with it."""
        if not any(self._ours(x) for x in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        if self._gradient and not torch.is_grad_enabled():
            raise NotPlainError
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if self._now is None or not args or args[0] is not self._now:
            raise NotPlainError
        if func in READ:
            return func(*args, **kwargs)
        if func in ACTIVATIONS:
            return self._activate(func, args, kwargs)
        if func in RESHAPES:
            return self._reshape(func(*args, **kwargs))
        if func in LOSSES:
            return self._end(func, *args, **kwargs)
        if func is F.dropout and not (args[2] if len(args) > 2 else kwargs.get("training", True)):
            return self._now
        raise NotPlainError

    def _ours(self, x: Any) -> bool:
        if isinstance(x, (list, tuple)):
            return any(self._ours(item) for item in x)
        return isinstance(x, Tensor) and (x.is_meta or id(x) in self._places)

    def _place(self, p: Tensor) -> int:
        """Return where a parameter lies; each is used once."""
        if id(p) not in self._places or id(p) in self._used or not p.is_contiguous():
            raise NotPlainError
        self._used.add(id(p))
        return self._places[id(p)]

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._X is None:
            fits = input.dtype == weight.dtype and input.device == weight.device
            plain = input.ndim == 2 and input.numel() and fits
            if not plain or self._ours(input) or _wanted(input) or type(input) is not Tensor:
                raise NotPlainError
            self._X, self._version = input.detach(), input._version
        elif input is not self._now or self._shape:
            raise NotPlainError
        outputs, inputs = weight.shape
        fits = input.shape[1] == inputs and (bias is None or bias.shape == (outputs,))
        if not fits or torch.is_autocast_enabled(weight.device.type):
            raise NotPlainError
        begin = self._place(weight)
        self._layers.append(
            Layer(inputs, outputs, begin, -1 if bias is None else self._place(bias), "none")
        )
        assert self._X is not None
        return self._next(self._X.new_empty(len(self._X), outputs, device="meta"))

    def _next(self, x: Tensor) -> Tensor:
        self._now = x
        return x

    def _activate(self, func: Function, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
        name = ACTIVATIONS[func]
        approximate = kwargs.get("approximate", "none")
        if (
            self._layers[-1].activation != "none"
            or self._shape
            or approximate not in {"none", "tanh"}
        ):
            raise NotPlainError
        name = "gelu-tanh" if approximate == "tanh" else name
        self._layers[-1] = self._layers[-1]._replace(activation=name)
        if func in IN_PLACE or kwargs.get("inplace", False):
            return args[0]  # type: ignore[no-any-return]
        return self._next(torch.empty(args[0].shape, dtype=args[0].dtype, device="meta"))

    def _reshape(self, x: Tensor) -> Tensor:
        """Follow a change of shape that keeps rows, or that makes [n, 1] a vector."""
        n, outputs = len(self._X) if self._X is not None else 0, self._layers[-1].outputs
        if x.shape != (n, outputs):
            if outputs != 1 or x.shape != (n,):
                raise NotPlainError
            self._shape = (n,)
        return self._next(x)

    def _end(self, func: Function, input: Tensor, target: Any = None, **settings: Any) -> Tensor:
        assert self._X is not None
        reduction = settings.pop("reduction", "mean")
        for name in ("weight", "size_average", "reduce", "pos_weight"):
            if settings.pop(name, None) is not None:
                raise NotPlainError
        if settings.pop("label_smoothing", 0.0) or reduction not in {"mean", "sum"}:
            raise NotPlainError
        ignored, loss = settings.pop("ignore_index", -100), LOSSES[func]
        if settings or not isinstance(target, Tensor) or self._ours(target):
            raise NotPlainError
        if target.device != self._X.device:
            raise NotPlainError
        n, outputs = len(self._X), self._layers[-1].outputs
        if loss == "cross-entropy":
            if self._shape or target.shape != (n,) or target.dtype != torch.int64 or ignored >= 0:
                raise NotPlainError
            lowest, highest = torch.stack(target.aminmax()).tolist()  # a GPU is asked once
            if lowest < 0 or highest >= outputs:
                raise NotPlainError
        elif target.shape != input.shape or target.dtype != self._X.dtype or _wanted(target):
            raise NotPlainError
        numbers = n if loss == "cross-entropy" else n * outputs
        value = self._X.new_empty((), device="meta")
        y = target if loss == "cross-entropy" else target.detach().reshape(n, outputs)
        factor = 1.0 if reduction == "sum" else 1 / numbers
        self._loss = (value, y, loss, factor, target._version)
        self._now = None  # nothing may follow
        return value


def _wanted(x: Tensor) -> bool:
    """Whether somebody wants the gradient of the data."""
    return x.requires_grad and x.is_leaf


def recognise(closure: Closure, params: Sequence[Tensor], gradient: bool = False) -> Net | None:
    """Return the net whose loss a closure returns, with the data of this call, or None.

    Parameters
    ----------
    closure : callable
        It is called once.
    params : sequence of Tensor
        Parameters on one device, all of one dtype, in the order of the flat vector.
    gradient : bool
        Whether gradients are wanted.
    """
    record = Record(params, gradient)
    try:
        with torch.set_grad_enabled(gradient), record:
            value = closure()
    except Exception:
        return None  # whoever evaluates it next tells what is wrong, if anything is
    return record.net(value)
