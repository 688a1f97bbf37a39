"""The commands, by what they work on, less those that call a server. Part of router.cli.

Offline: prompts → attempts → verifier, difficulty model, policy → report.

Heavy libraries are imported by the command that needs them.
"""

from router.commands.attempts import calibrate, collect, judge, judge_reviser, score
from router.commands.models import merge, train_generator, train_reviser, train_verifier
from router.commands.policy import evaluate, train, tune
from router.commands.review import diff, estimate
from router.commands.service import serve, token

SERVICE = (serve, token)
PIPELINE = (
    *(collect, score, judge, judge_reviser, calibrate),
    *(train_generator, train_reviser, train_verifier, merge),
    *(train, tune, evaluate),
    *(diff, estimate),
)
