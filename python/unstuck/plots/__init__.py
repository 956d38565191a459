"""Result pictures as matplotlib figures: returned, never shown or written."""

from unstuck.plots.blend import blend_figure
from unstuck.plots.problem_race import problem_race_figure
from unstuck.plots.race import race_figure
from unstuck.plots.search import convergence_figure, trajectory_figure

__all__ = [
    "blend_figure",
    "convergence_figure",
    "problem_race_figure",
    "race_figure",
    "trajectory_figure",
]
