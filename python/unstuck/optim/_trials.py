"""Losses of a model at other parameters, measured so that nothing but the losses is left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

Closure = Callable[[], Any]
Skip = Callable[..., Any]


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


class _NoBackward(TorchFunctionMode):
    """Lets a closure that calls ``loss.backward()`` evaluate its loss alone."""

    skipped = False

    def __torch_function__(
        self, func: Skip, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.backward:
            self.skipped = True
            return None
        return func(*args, **(kwargs or {}))


class _Buffers:
    """The buffers of every module that runs, as they were before it ran for the first time."""

    def __init__(self) -> None:
        self._kept: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
        self._hook = register_module_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, _: Any) -> None:
        for name, buffer in module._buffers.items():
            if buffer is not None and (module, name) not in self._kept:
                self._kept[module, name] = (buffer, buffer.clone())

    def restore(self) -> None:
        """Write all of them back: running statistics change without a new version."""
        with torch.no_grad():
            for (module, name), (buffer, values) in self._kept.items():
                buffer.copy_(values)
                module._buffers[name] = buffer

    def close(self) -> None:
        self._hook.remove()


class Trials:
    """Evaluate a closure at parameters that come and go.

    Every evaluation sees the same random numbers (dropout masks) and the same buffers (running
    statistics). At the end gradients, buffers and generators are as they were; when the closure
    raises, so are the parameters.

    Parameters
    ----------
    params : sequence of Tensor
        What differs from one trial to the next.
    closure : callable
        Returns the loss. Where it calls ``loss.backward()``, that does nothing here.
    random : RandomState
        The state from which every evaluation draws.
    """

    def __init__(self, params: Sequence[Tensor], closure: Closure, random: RandomState) -> None:
        self.params = params
        self.start = copies(params)
        self.count = 0
        self.value: Any = None  # what the closure returned last
        self._closure, self._random = closure, random
        self._calls_backward = True  # until it is seen not to

    def __enter__(self) -> Trials:
        self._grads = [p.grad for p in self.params]
        self._after = RandomState(self.params)
        self._buffers = _Buffers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._buffers.restore()
        self._buffers.close()
        self._after.restore()
        for p, grad in zip(self.params, self._grads, strict=True):
            p.grad = grad
        if kind is not None:
            self.write(self.start)

    def write(self, values: Sequence[Tensor]) -> None:
        """Write values into the parameters."""
        write(self.params, values)

    def loss(self) -> Tensor:
        """Evaluate the closure at the parameters as they are: a number in float64."""
        torch.clear_autocast_cache()  # an enclosing autocast keeps the weights it has cast
        self._random.restore()
        with torch.no_grad():
            if self._calls_backward:
                with _NoBackward() as mode:
                    self.value = self._closure()
                self._calls_backward = mode.skipped
            else:
                self.value = self._closure()
        self._buffers.restore()
        self.count += 1
        return as_loss(self.value)


def copies(params: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of the values."""
    return [p.detach().clone(memory_format=torch.preserve_format) for p in params]


def write(params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into parameters, bit for bit where the dtypes are alike."""
    with torch.no_grad():
        for p, value in zip(params, values, strict=True):
            p.copy_(value)


def as_loss(value: Any) -> Tensor:
    """Return a closure's loss as one number in float64, on its device.

    Raises
    ------
    TypeError, ValueError
        When it is not one real number.
    """
    if isinstance(value, bool) or not isinstance(value, (Tensor, float, int)):
        raise TypeError(f"the closure must return the loss, a number or a tensor, not {value!r}")
    loss = torch.as_tensor(value).detach()
    if loss.numel() != 1 or loss.is_complex():
        raise ValueError(
            f"the closure must return one real number, not {loss.dtype} of shape "
            f"{tuple(loss.shape)}: reduce the loss, for example by .mean()"
        )
    return loss.reshape(()).double()
