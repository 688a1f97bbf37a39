#!/usr/bin/env bash
# The bundle from nothing: fine-tune, sample, judge, calibrate, train, tune, evaluate. Four to five hours on two cores
# with AVX-512 and bfloat16.
#
#   models/smollm2-135m/recipe/build.sh [FOLDER]     (default: build/smollm2-135m)
#
# With ROWS=48 in the environment only so many rows of each file are read: a worthless bundle, to see all stages through.
# Copy a generator/ into FOLDER first: one trained on so little writes nonsense.
#
# Every stage can be killed and started again: finished ones are skipped, the interrupted one goes on.
set -euo pipefail
cd "$(dirname "$0")/../../.."
recipe=models/smollm2-135m/recipe
bundle=${1:-build/smollm2-135m}
data=$recipe/data
attempts=$bundle/attempts
router=.venv/bin/router
stage() { printf '\n== %s\n' "$*"; }
made() { [ -f "$bundle/$1/adapter_model.safetensors" ]; }
mkdir -p "$attempts"
if [ -n "${ROWS:-}" ]; then
  data=$bundle/data && mkdir -p "$data"
  for file in $recipe/data/*.jsonl; do head -n "$ROWS" "$file" > "$data/${file##*/}"; done
fi
[ -f "$bundle/engine.json" ] || cp $recipe/engine.json "$bundle/"

stage "solver: LoRA on 3,000 worked solutions (12 minutes)"
made generator || $router train-generator $data/solver.jsonl --engine "$bundle"

stage "verifier: the solver, trained on 15,000 worked solutions that it never saw (50 minutes)"
[ -f "$bundle/verifier.jsonl" ] || .venv/bin/python $recipe/examples.py --verifier "$bundle/verifier.jsonl" ${ROWS:-}
made verifier || $router train-verifier "$bundle/verifier.jsonl" --engine "$bundle" --learning-rate 1.5e-3

stage "practice: 16 attempts at each of 1,362 prompts, to learn revising and calibrate on (half an hour)"
practice=$bundle/practice
if [ ! -f "$attempts/practice.parquet" ]; then
  mkdir -p "$practice" && cp $recipe/engine-practice.json "$practice/engine.json"
  [ -d "$practice/generator" ] || cp -r "$bundle/generator" "$practice/"
  $router collect --engine "$practice" --prompts $data/practice.jsonl --attempts 16 --out "$attempts/practice.parquet"
fi

stage "reviser: LoRA on chains of wrong attempts and a right one (10 minutes)"
made reviser || $router train-reviser "$attempts/practice.parquet" --engine "$bundle"
[ -f "$bundle/reviser.json" ] || $router judge-reviser --prompts $data/reviser.jsonl --engine "$bundle" --json |
  tail -1 > "$bundle/reviser.json"

stage "calibration: the verifier's scores as chances of being right (5 minutes)"
scored=$attempts/calibration.parquet
[ -f "$scored" ] || $router score "$attempts/practice.parquet" --engine "$bundle" --limit 160 --out "$scored"
grep -q slope "$bundle/engine.json" || $router calibrate "$scored" --engine "$bundle"

stage "attempts: pools, then what can't be replayed from a pool (two and a half hours)"
for set in tune heldout; do
  collect=("$router" collect --engine "$bundle" --prompts $data/$set.jsonl --attempts 32 --out "$attempts/$set.parquet")
  "${collect[@]}" --arm single --arm "beam_search(n=32, m=4)" --arm "dvts(n=16, m=4)" --arm "dvts(n=32, m=4)" \
    --arm "lookahead(n=4, m=4, k=1)" --arm "revision(n=4, chains=1)" --arm "revision(n=4, chains=2)" \
    --arm "revision(n=8, chains=4)" --arm "revision(n=16, chains=4)"
  "${collect[@]}" --times 2 --arm "beam_search(n=4, m=4)" --arm "beam_search(n=8, m=4)" --arm "beam_search(n=16, m=4)"
done

stage "verifiers, judged: the log-probability on practice attempts, the one that is served before and after calibration"
$router judge --json "$attempts/"{practice,calibration,heldout}.parquet > "$bundle/judged.jsonl"

stage "difficulty model and policy (a minute)"
$router train "$attempts/tune.parquet" --bundle "$bundle"
$router tune "$attempts/tune.parquet" --bundle "$bundle" --default budget=16

stage "report and card, on the held-out prompts"
$router evaluate "$attempts/heldout.parquet" --bundle "$bundle" --out "$bundle/report" --judged "$bundle/judged.jsonl"
