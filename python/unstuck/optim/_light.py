"""``torch.optim.Optimizer`` without what hooks and profiles cost where there are none.

Entries for a profile that nobody makes are a large part of a small network's training step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch.autograd import profiler
from torch.optim import Optimizer, optimizer

Step = TypeVar("Step", bound=Callable[..., Any])


def hooked(step: Step) -> Step:
    """Wrap a step as torch does, but go straight to it where no hook and no profile wants to know.

    A subclass whose own step calls this one is wrapped by torch: hooks are left to that wrapper.
    """
    wrapped = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def straight(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if (
            profiler._is_profiler_enabled
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or optimizer._global_optimizer_pre_hooks
            or optimizer._global_optimizer_post_hooks
        ) and type(self).step is straight:
            return wrapped(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    straight.hooked = True  # type: ignore[attr-defined]  # so that torch does not wrap it again
    return cast(Step, straight)


class LightOptimizer(Optimizer):
    """An optimizer that forgets gradients without a record of it."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or set them to zero; see ``torch.optim.Optimizer``."""
        if not set_to_none or profiler._is_profiler_enabled:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
