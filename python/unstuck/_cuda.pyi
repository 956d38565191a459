"""unstuck's kernels on NVIDIA GPUs."""

from collections.abc import Sequence
from typing import Any

# The same names, for tensors on CUDA devices.
from unstuck._C import AdamPlan as AdamPlan
from unstuck._C import AttentionPlan as AttentionPlan
from unstuck._C import BlendPlan as BlendPlan
from unstuck._C import CandidatePlan as CandidatePlan
from unstuck._C import LearnedPlan as LearnedPlan
from unstuck._C import LstmPlan as LstmPlan
from unstuck._C import gate_layout as gate_layout
from unstuck._C import gate_size as gate_size
from unstuck._C import init as init
from unstuck._C import landscape_gradients as landscape_gradients
from unstuck._C import landscape_trials as landscape_trials
from unstuck._C import learned_students as learned_students
from unstuck._C import linear_candidates as linear_candidates
from unstuck._C import mlp_candidates as mlp_candidates
from unstuck._C import mlp_line as mlp_line
from unstuck._C import mlp_points as mlp_points
from unstuck._C import net_candidates as net_candidates
from unstuck._C import net_trials as net_trials
from unstuck._C import noise_forms as noise_forms
from unstuck._C import noise_words as noise_words
from unstuck._C import regression_gradient as regression_gradient
from unstuck._C import regression_trials as regression_trials
from unstuck._C import stagnation_header as stagnation_header

__version__: str

def device_status() -> tuple[int, str, int]:
    """What the driver says: error code (0: none), its text, and the number of devices."""

def landscape_gradients_workspace(dim: int, count: int) -> int:
    """float64 numbers that landscape_gradients() needs."""

def landscape_trials_workspace(dim: int, count: int) -> int:
    """float64 numbers that landscape_trials() needs."""

def learned_students_workspace(sizes: Sequence[int], students: int) -> int:
    """float64 numbers that learned_students() needs, zeroed."""

def linear_candidates_workspace(n: int, count: int, antithetic: bool) -> int:
    """float64 numbers that linear_candidates() needs."""

def mlp_workspace(net: tuple[Any, ...], kind: str, count: int) -> int:
    """float64 numbers that a call of mlp_points(), mlp_candidates() or mlp_line() needs.

    The kind is "points", "gradients" (with them), "candidates" or "line".
    """

def net_candidates_workspace(n: int, count: int) -> int:
    """float64 numbers that net_candidates() needs."""

def net_trials_workspace(n: int, count: int) -> int:
    """float64 numbers that net_trials() needs."""

def regression_gradient_workspace(n: int, dim: int) -> int:
    """float64 numbers that regression_gradient() needs."""

def regression_trials_workspace(n: int, dim: int, count: int) -> int:
    """float64 numbers that regression_trials() needs."""
