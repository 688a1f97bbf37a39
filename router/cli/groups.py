"""Registers the commands in groups, in the order of ``router --help``.

Each command imports the heavy libraries that it needs itself.
"""

from router.cli.attempts import collect
from router.cli.begin import check, init
from router.cli.call import route, solve
from router.cli.convert import convert, rejudge
from router.cli.demo import demo
from router.cli.evaluate import evaluate
from router.cli.models import merge, train_generator, train_reviser, train_verifier
from router.cli.outcomes import outcomes
from router.cli.plan import plan
from router.cli.policy import time, train, tune
from router.cli.review import diff, estimate
from router.cli.service import serve, token
from router.cli.verifiers import calibrate, judge, judge_reviser, score

CALLS = (route, solve, plan)
SERVICE = (serve, token, demo)
GROUPS = (outcomes,)
PIPELINE = (
    *(init, check),
    *(collect, score, judge, judge_reviser, calibrate, rejudge),
    *(train_generator, train_reviser, train_verifier, merge),
    *(train, tune, time, evaluate),
    *(diff, estimate, convert),
)
