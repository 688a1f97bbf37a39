#!/usr/bin/env bash
# Attempts at the natural tasks' prompts: hours on two cores, minutes on a GPU. Can be killed and started again: what a
# file of attempts holds already is not sampled again.
#
#   models/natural/recipe/sample.sh [PART ...]     (default: tune heldout)
set -euo pipefail
cd "$(dirname "$0")/../../.."
recipe=models/natural/recipe
python=${PYTHON:-.venv/bin/python}
PYTHONPATH=. $python $recipe/fetch.py small
[ $# -gt 0 ] || set -- tune heldout
for part; do
  $python -m router.cli collect --bundle models/natural/gsm8k --prompts "$recipe/data/gsm8k-$part.jsonl" \
    --attempts 16 --concurrency 512 --out "models/natural/attempts/gsm8k-$part.parquet"
done
