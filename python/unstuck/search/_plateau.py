"""When a descent is over: losses that fall no more."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Plateau:
    """Tells from the mean losses of windows of steps that nothing gets better.

    A window is a plateau when its mean is not below that of the window before by more than
    `tol` times its size. The loss is read from the device once a window.
    """

    def __init__(self, window: int, tol: float) -> None:
        self.window, self.tol = window, tol

    @staticmethod
    def fresh() -> dict[str, Any]:
        """Return the entries of a search that has seen nothing."""
        return {"window_sum": 0.0, "window_count": 0, "window_mean": None, "plateaus": 0}

    @staticmethod
    def begin(search: dict[str, Any], *, elsewhere: bool) -> None:
        """Count from none again; `elsewhere`, the losses of before say nothing."""
        search["plateaus"] = 0
        if elsewhere:
            search["window_mean"] = None

    def see(self, search: dict[str, Any], loss: Tensor | float) -> int:
        """Take in one loss; return how many plateaus there have been in a row."""
        search["window_sum"] = search["window_sum"] + loss
        search["window_count"] += 1
        if search["window_count"] == self.window:
            mean = float(search["window_sum"]) / self.window
            last = search["window_mean"]
            better = last is None or last - mean > self.tol * abs(last)
            search["plateaus"] = 0 if better else search["plateaus"] + 1
            search.update(window_sum=0.0, window_count=0, window_mean=mean)
        return int(search["plateaus"])
