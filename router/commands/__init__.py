"""The offline commands: prompts → attempts → verifier, difficulty model, policy → report. Part of router.cli.

Heavy libraries are imported by the command that needs them.
"""

from router.commands.attempts import collect, judge, score
from router.commands.models import train_generator, train_reviser, train_verifier
from router.commands.policy import evaluate, train, tune

PIPELINE = (collect, score, judge, train_generator, train_reviser, train_verifier, train, tune, evaluate)
