"""Minimise a function with one call, as with ``scipy.optimize.minimize``.

Examples
--------
>>> from unstuck.minimize import METHODS, minimize
>>> minimize("ackley", bounds=[(-30, 30)] * 5, budget=5000, seed=0).nfev
5000
>>> "attention" in METHODS
True
"""

from unstuck.minimize.front import minimize
from unstuck.minimize.methods import METHODS, Method
from unstuck.minimize.result import History, OptimizeResult

__all__ = ["METHODS", "History", "Method", "OptimizeResult", "minimize"]
