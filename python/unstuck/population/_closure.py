"""A closure evaluated somewhere else, so that nothing but its loss is left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

Closure = Callable[[], Any]
Function = Callable[..., Any]

BACKWARD = {Tensor.backward, torch.autograd.backward}


class RandomState:
    """The state of torch's generators: the CPU's, and those of the parameters' GPUs."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        devices = {p.device for p in params if p.is_cuda}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def restore(self) -> None:
        """Put the generators back, so that the same dropout masks are drawn again."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)

    def same_as(self, other: RandomState) -> bool:
        """Whether no number was drawn between the two."""
        return torch.equal(self._cpu, other._cpu) and all(
            torch.equal(state, other._cuda[device]) for device, state in self._cuda.items()
        )


class NoBackward(TorchFunctionMode):
    """Lets a closure that calls ``loss.backward()`` evaluate its loss alone."""

    skipped = False

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave out calls of ``backward``."""
        if func in BACKWARD:
            self.skipped = True
            return None
        return func(*args, **(kwargs or {}))


class Buffers:
    """The buffers of every module that runs, as they were before it ran for the first time.

    Parameters
    ----------
    module : nn.Module, optional
        One whose buffers are kept at once, and that may have others in their place when it runs.
    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self._kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
        if module is not None:
            self._keep_all(module)
        self._hook = register_module_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, _: Any) -> None:
        compiled = getattr(module, "_orig_mod", None)  # by torch.compile: it runs without hooks
        if isinstance(compiled, nn.Module):
            self._keep_all(compiled)
        for name, buffer in module._buffers.items():
            if buffer is not None and (module, name) not in self._kept:
                self._kept[module, name] = (buffer, buffer.clone())

    def _keep_all(self, module: nn.Module) -> None:
        for part in module.modules():
            self._keep(part, None)

    def changed(self) -> list[Tensor]:
        """Return the floating-point buffers that are no longer what they were, or where."""
        return [
            buffer
            for (module, name), (buffer, values) in self._kept.items()
            if buffer.is_floating_point()
            and not (module._buffers.get(name) is buffer and torch.equal(buffer, values))
        ]

    def restore(self) -> None:
        """Write all of them back: running statistics change without a new version."""
        with torch.no_grad():
            for (module, name), (buffer, values) in self._kept.items():
                buffer.copy_(values)
                module._buffers[name] = buffer

    def close(self) -> None:
        """Keep no more."""
        self._hook.remove()


class Untouched:
    """Gradients, buffers and generators during evaluations, and put back after them.

    Parameters
    ----------
    params : sequence of Tensor
        Their gradients are None meanwhile, where `hide_gradients`.
    module : nn.Module, optional
        See :class:`Buffers`.
    random : RandomState, optional
        From which every evaluation draws; by default the state now.
    hide_gradients : bool
        Whether a closure that clears gradients in place must find none.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        module: nn.Module | None = None,
        random: RandomState | None = None,
        hide_gradients: bool = False,
    ) -> None:
        self._params, self._module, self._hide = params, module, hide_gradients
        self._random = random

    def __enter__(self) -> Untouched:
        self._grads = [p.grad for p in self._params]
        self._after = RandomState(self._params)
        self.random = self._after if self._random is None else self._random
        self.buffers = Buffers(self._module)
        if self._hide:
            for p in self._params:
                p.grad = None
        return self

    def begin(self) -> None:
        """Give an evaluation the random numbers and buffers that every other one sees."""
        torch.clear_autocast_cache()  # an enclosing autocast keeps the weights it has cast
        self.random.restore()
        self.buffers.restore()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.buffers.restore()
        self.buffers.close()
        self._after.restore()
        for p, grad in zip(self._params, self._grads, strict=True):
            p.grad = grad


def needs_graph(error: RuntimeError) -> bool:
    """Whether a closure failed because it differentiates, and was evaluated without a graph."""
    return "does not require grad" in str(error)


def as_loss(value: Any) -> Tensor:
    """Return a closure's loss as one number in float64, on its device.

    Raises
    ------
    TypeError, ValueError
        When it is not one real number.
    """
    return one_number(value).detach().double()


def one_number(value: Any) -> Tensor:
    """Return a closure's loss as a tensor without dimensions.

    Raises
    ------
    TypeError, ValueError
        When it is not one real number.
    """
    if isinstance(value, bool) or not isinstance(value, (Tensor, float, int)):
        raise TypeError(f"the closure must return the loss, a number or a tensor, not {value!r}")
    loss = torch.as_tensor(value)
    if loss.numel() != 1 or loss.is_complex():
        raise ValueError(
            f"the closure must return one real number, not {loss.dtype} of shape "
            f"{tuple(loss.shape)}: reduce the loss, for example by .mean()"
        )
    return loss.reshape(())


def copies(params: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of the values."""
    return [p.detach().clone(memory_format=torch.preserve_format) for p in params]


def write(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into parameters, bit for bit where the dtypes are alike."""
    with torch.no_grad():
        for p, value in zip(params, values, strict=True):
            p.copy_(value)
