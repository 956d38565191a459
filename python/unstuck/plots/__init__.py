"""Result pictures as matplotlib figures: returned, never shown or written."""

from unstuck.plots.race import race_figure

__all__ = ["race_figure"]
