"""ALME in training loops of others, whose steps get no closure.

``accelerate`` and hand-written loops call :class:`Escapes` after each step; for the Trainer of
``transformers`` there is :mod:`unstuck.integrations.huggingface`. Lightning gives the optimizer a
closure itself, so that nothing is needed there.
"""

from unstuck.integrations._escapes import Escapes

__all__ = ["Escapes"]
