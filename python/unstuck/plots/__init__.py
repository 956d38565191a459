"""Result pictures as matplotlib figures: returned, never shown or written."""

from unstuck.plots.alme import (
    alme_comparison_figure,
    alme_landscapes_figure,
    escape_distances_figure,
    escapes_figure,
)
from unstuck.plots.blend import blend_figure
from unstuck.plots.learned import learned_curves_figure
from unstuck.plots.learned_studies import learned_mnist_figure, learned_trajectories_figure
from unstuck.plots.meta_training import meta_training_figure
from unstuck.plots.problem_race import problem_race_figure
from unstuck.plots.race import race_figure
from unstuck.plots.search import convergence_figure, trajectory_figure

__all__ = [
    "alme_comparison_figure",
    "alme_landscapes_figure",
    "blend_figure",
    "convergence_figure",
    "escape_distances_figure",
    "escapes_figure",
    "learned_curves_figure",
    "learned_mnist_figure",
    "learned_trajectories_figure",
    "meta_training_figure",
    "problem_race_figure",
    "race_figure",
    "trajectory_figure",
]
