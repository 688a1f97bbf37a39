"""The commands, by what they work on, less those that call a server. Part of router.cli.

Offline: prompts → attempts → verifier, difficulty model, policy → report.

Heavy libraries are imported by the command that needs them.
"""

from router.cli.attempts import calibrate, collect, judge, judge_reviser, score
from router.cli.demo import demo
from router.cli.models import merge, train_generator, train_reviser, train_verifier
from router.cli.policy import evaluate, train, tune
from router.cli.review import diff, estimate
from router.cli.service import serve, token

SERVICE = (serve, token, demo)
PIPELINE = (
    *(collect, score, judge, judge_reviser, calibrate),
    *(train_generator, train_reviser, train_verifier, merge),
    *(train, tune, evaluate),
    *(diff, estimate),
)
