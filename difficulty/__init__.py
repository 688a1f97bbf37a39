"""How hard is a prompt for the model being served: five levels, predicted from the prompt alone."""

from difficulty.levels import LEVELS, find_edges, levels_of
from difficulty.model import CANDIDATES, DifficultyModel

__all__ = ["CANDIDATES", "LEVELS", "DifficultyModel", "find_edges", "levels_of"]
