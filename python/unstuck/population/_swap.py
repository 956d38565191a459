"""Other values in the place of parameters, wherever a closure reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from unstuck.population._closure import BACKWARD, Closure, Function, one_number

# What a closure does to a parameter itself, not to its values.
GRAD: Any = Tensor.grad
ITSELF = {GRAD.__get__, GRAD.__set__, GRAD.__delete__, Tensor.register_hook}
# Normalisations that write running statistics, and where these stand among their arguments.
STATISTICS = {F.batch_norm: ("training", 5), F.instance_norm: ("use_input_stats", 5)}


def name_of(function: Function | None) -> str:
    """Return the name of a torch function, as users write it."""
    if function is None:
        return "the closure"
    return str(resolve_name(function) or getattr(function, "__name__", function))


class Replace(TorchFunctionMode):
    """Puts values in the place of tensors, by identity, in every function that is called.

    Gradients are neither computed nor cleared. Normalisations that take their statistics from the
    batch do so without writing running ones.

    Parameters
    ----------
    tensors : sequence of Tensor
        The originals.
    values : sequence of Tensor
        What functions get instead.
    """

    def __init__(self, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        super().__init__()
        self._values = {id(t): v for t, v in zip(tensors, values, strict=True)}
        self.last: Function | None = None

    def also(self, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Replace more tensors."""
        self._values.update({id(t): v for t, v in zip(tensors, values, strict=True)})

    def value(self, tensor: Tensor) -> Tensor | None:
        """Return what stands in the place of a tensor; None: the tensor itself."""
        return self._values.get(id(tensor))

    def put(self, x: Any) -> Any:
        """Return an argument with values in it."""
        if isinstance(x, Tensor):
            value = self.value(x)
            return x if value is None else value
        if type(x) in (list, tuple):
            return type(x)([self.put(item) for item in x])
        return x

    def call(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function with values in the place of parameters."""
        return func(*self.put(args), **{key: self.put(x) for key, x in kwargs.items()})

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, or leave it out."""
        kwargs = kwargs or {}
        if func in BACKWARD:
            return None
        if func in ITSELF:
            return func(*args, **kwargs)
        self.last = func
        if func in STATISTICS:
            args, kwargs = _without_running(func, args, kwargs)
        return self.call(func, args, kwargs)


def _without_running(func: Function, args: Any, kwargs: dict[str, Any]) -> Any:
    name, index = STATISTICS[func]
    if not (args[index] if len(args) > index else kwargs.get(name, name == "use_input_stats")):
        return args, kwargs
    args = tuple(None if i in (1, 2) else x for i, x in enumerate(args))
    running: Any = {"running_mean", "running_var"}
    return args, {k: None if k in running else x for k, x in kwargs.items()}


class _Around(nn.Module):
    """The user's module as a part of one that calls the closure: ``functional_call`` reaches it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, closure: Closure, mode: Replace) -> Tensor:
        """Call the closure."""
        with mode:
            value = closure()
        return one_number(value)


class Swap:
    """Evaluates a closure with tensors swapped, those of the module and those that it captured.

    Parameters
    ----------
    module : nn.Module
        The model.
    closure : callable
        Returns the loss.
    """

    def __init__(self, module: nn.Module, closure: Closure) -> None:
        self._around = _Around(module)
        self.closure = closure
        self.last: Function | None = None  # what an evaluation that failed called last

    def __call__(
        self, mode: Replace, tensors: Sequence[Tensor] = (), values: Sequence[Tensor] = ()
    ) -> Tensor:
        """Evaluate under a mode, with `values` also in the place of `tensors`."""
        mode.also(tensors, values)
        swapped: dict[str, Tensor] = {}
        if tensors:
            new = {id(t): v for t, v in zip(tensors, values, strict=True)}
            whole = self._around
            for name, tensor in [*whole.named_parameters(), *whole.named_buffers()]:
                if (value := new.get(id(tensor))) is not None:
                    swapped[name] = value
        try:
            if not swapped:
                return self._around.forward(self.closure, mode)
            result: Tensor = torch.func.functional_call(self._around, swapped, (self.closure, mode))
            return result
        finally:
            self.last = mode.last
