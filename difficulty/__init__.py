"""How hard a prompt is for the models that are served: five levels, predicted from the prompt alone."""

from difficulty.familiarity import Familiarity
from difficulty.levels import LEVELS, find_edges, levels_of
from difficulty.model import CANDIDATES, DifficultyModel

__all__ = ["CANDIDATES", "LEVELS", "DifficultyModel", "Familiarity", "find_edges", "levels_of"]
