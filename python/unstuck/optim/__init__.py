"""Optimizers with the ``torch.optim`` API: fused steps, and ways out of local minima."""

from unstuck.optim.alme import ALME
from unstuck.optim.alternating import Alternating
from unstuck.optim.attention_restart import AttentionRestart
from unstuck.optim.blend import DynamicBlend
from unstuck.optim.gate import Gate
from unstuck.optim.learned import Learned
from unstuck.optim.learning_rate_attention import LearningRateAttention
from unstuck.optim.reactive_escape import ReactiveEscape

__all__ = [
    "ALME",
    "Alternating",
    "AttentionRestart",
    "DynamicBlend",
    "Gate",
    "Learned",
    "LearningRateAttention",
    "ReactiveEscape",
]
