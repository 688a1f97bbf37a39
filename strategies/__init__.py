"""Test-time strategies, written as pure generators. A strategy with its parameters is an arm.

A strategy never calls a model, waits or counts tokens: it yields requests, and a driver answers them. Read ``requests``
first, then ``sampling``. Each family of algorithms has one file. To add a strategy, write a dataclass like those and
register it.
"""

from strategies.cascade import Cascade
from strategies.parsing import STRATEGIES, parse, register
from strategies.repair import Repair
from strategies.requests import AskConfidence, Candidate, Earlier, Extend, Result, Score, Search, Stage
from strategies.revision import Revision
from strategies.sampling import BestOfN, Majority, Sampling, Single, WeightedBestOfN
from strategies.strategy import LARGEST, InvalidArm, Strategy
from strategies.tree_search import BeamSearch, Dvts, Lookahead

__all__ = [
    "LARGEST",
    "STRATEGIES",
    "AskConfidence",
    "BeamSearch",
    "BestOfN",
    "Candidate",
    "Cascade",
    "Dvts",
    "Earlier",
    "Extend",
    "InvalidArm",
    "Lookahead",
    "Majority",
    "Repair",
    "Result",
    "Revision",
    "Sampling",
    "Score",
    "Search",
    "Single",
    "Stage",
    "Strategy",
    "WeightedBestOfN",
    "parse",
    "register",
]

register(Single, Majority, BestOfN, WeightedBestOfN, BeamSearch, Dvts, Lookahead, Revision, Repair)
