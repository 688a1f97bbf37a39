#!/usr/bin/env bash
# The bundle from nothing: fine-tune, sample, judge, calibrate, train, tune, evaluate.
#
#   models/smollm2-135m/recipe/build.sh [FOLDER]     (default: build/smollm2-135m)
#
# Meant for a GPU: on two cores the verifier alone takes half a day, and so do the attempts. In the environment:
#   WORKERS=6      processes that sample side by side; one, unless told otherwise. On a GPU of 140 GB six
#   ROWS=48        read only so many rows of each file: a worthless bundle, to see all stages through on a CPU. Copy a
#                  generator/ into FOLDER first: one trained on so little writes nonsense
#   UNTIL=sampled  stop before the stages that need no GPU
#
# Every stage can be killed and started again: finished ones are skipped, the interrupted one goes on.
set -euo pipefail
cd "$(dirname "$0")/../../.."
recipe=models/smollm2-135m/recipe
bundle=${1:-build/smollm2-135m}
data=$recipe/data
attempts=$bundle/attempts
python=${PYTHON:-.venv/bin/python}
router="$python -m router.cli"
collect="$router collect --workers ${WORKERS:-1}"
stage() { printf '\n== %(%T)T %s\n' -1 "$*"; }
made() { [ -f "$bundle/$1/adapter_model.safetensors" ]; }
mkdir -p "$attempts"
if [ -n "${ROWS:-}" ]; then
  data=$bundle/data && mkdir -p "$data"
  for file in $recipe/data/*.jsonl; do head -n "$ROWS" "$file" > "$data/${file##*/}"; done
fi
[ -f "$bundle/models.json" ] || cp $recipe/models.json "$bundle/"

stage "solver: LoRA on 3,000 worked solutions"
made generator || $router train-generator $data/solver.jsonl --bundle "$bundle"

stage "verifier: LoRA on 150,000 worked solutions, none of a prompt that is sampled"
[ -f "$bundle/verifier.jsonl" ] || $python $recipe/examples.py --verifier "$bundle/verifier.jsonl" ${ROWS:-}
made verifier || $router train-verifier "$bundle/verifier.jsonl" --bundle "$bundle" \
  --fresh --rank 16 --batch-size 256 --learning-rate 2e-3

stage "practice: 16 attempts at each of 5,000 prompts to learn revising on, and at those to calibrate on"
practice=$bundle/practice
mkdir -p "$practice" && cp $recipe/models-practice.json "$practice/models.json"
[ -d "$practice/generator" ] || cp -r "$bundle/generator" "$practice/"
[ -f "$practice/prompts.jsonl" ] || $python $recipe/examples.py --practice "$practice/prompts.jsonl" ${ROWS:-}
[ -f "$practice/attempts.parquet" ] || $collect --bundle "$practice" --attempts 16 \
  --prompts "$practice/prompts.jsonl" --out "$practice/attempts.parquet"
[ -f "$attempts/baseline.parquet" ] || $collect --bundle "$practice" --attempts 16 \
  --prompts $data/calibration.jsonl --out "$attempts/baseline.parquet"

stage "reviser: LoRA on chains of wrong attempts and a right one"
made reviser || $router train-reviser "$practice/attempts.parquet" --bundle "$bundle" --batch-size 96
[ -f "$bundle/reviser.json" ] || $router judge-reviser --prompts $data/reviser.jsonl --bundle "$bundle" --json |
  tail -1 > "$bundle/reviser.json"

stage "calibration: the verifier's scores as chances of being right"
scored=$attempts/calibration.parquet
[ -f "$scored" ] || $router score "$attempts/baseline.parquet" --bundle "$bundle" --limit 400 --out "$scored"
grep -q slope "$bundle/models.json" || $router calibrate "$scored" --bundle "$bundle"

stage "attempts: pools, and what can't be replayed from a pool"
for set in tune heldout; do
  $collect --bundle "$bundle" --prompts $data/$set.jsonl --attempts 64 --out "$attempts/$set.parquet" --arm single \
    "--arm=beam_search(n="{4,8,16,32}", m=4)" "--arm=dvts(n="{16,32}", m=4)" "--arm=dvts(n=16, m="{2,4}", stop=0.6)" \
    --arm "lookahead(n=4, m=4, k=1)" \
    --arm "revision(n=4, chains=1)" --arm "revision(n=4, chains=2)" --arm "revision(n=8, chains=4)"
done

stage "the same at new prompts, which the report is on, by pieces of 50"
BUNDLE=$bundle DATA=$data $recipe/fresh.sh 1 "$([ -n "${ROWS:-}" ] && echo 1 || echo 12)"
[ "${UNTIL:-}" != sampled ] || exit 0

stage "verifiers, judged: the log-probability, and the one that is served before and after calibration"
$router judge --json "$attempts/"{baseline,calibration,heldout}.parquet > "$bundle/judged.jsonl"

stage "difficulty model and policy (a minute)"
finished() { [ -f "$bundle/manifest.json" ]; }
# The former held-out prompts, which were looked at while cascades were designed, are tuning prompts since.
finished || $router train "$attempts/"{tune,heldout}.parquet --bundle "$bundle"
finished || $router tune "$attempts/"{tune,heldout}.parquet --bundle "$bundle" --default budget=16

stage "seconds, on this machine: 20 prompts, one call at a time"
timed=$bundle/timed.jsonl
[ -f "$timed" ] || shuf -n 20 --random-source=<(yes) $data/tune.jsonl > "$timed"
$router collect --bundle "$bundle" --prompts "$timed" --one-by-one --attempts 64 --out "$attempts/timed.parquet" --arm single \
  "--arm=beam_search(n="{4,8,16,32}", m=4)" "--arm=dvts(n="{16,32}", m=4)" "--arm=dvts(n=16, m="{2,4}", stop=0.6)"
$router time "$attempts/timed.parquet" --bundle "$bundle"

stage "report and card, on the new prompts"
$router evaluate "$attempts/"fresh-*.parquet --bundle "$bundle" --out "$bundle/report" --judged "$bundle/judged.jsonl" \
  --tuned-on="$attempts/"{tune,heldout}.parquet --goals $recipe/goals.json
