#!/usr/bin/env bash
# The bundle from nothing: fine-tune, sample, judge, train, tune, evaluate. Two to three hours on two cores.
#
#   models/smollm2-135m/recipe/build.sh [FOLDER]     (default: build/smollm2-135m)
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
mkdir -p "$attempts"
[ -f "$bundle/engine.json" ] || cp models/smollm2-135m/engine.json "$bundle/"

stage "generator: LoRA on worked solutions, in two legs (13 and 16 minutes)"
leg=$bundle/leg-1
if [ ! -f "$bundle/generator/adapter_model.safetensors" ]; then
  mkdir -p "$leg" && cp "$bundle/engine.json" "$leg/"
  [ -f "$leg/generator/adapter_model.safetensors" ] || $router train-generator $data/solver-1.jsonl --engine "$leg"
  $router train-generator $data/solver-2.jsonl --engine "$bundle" --start "$leg/generator" --learning-rate 1.2e-3
fi
rm -rf "$leg"

stage "verifier: attempts at its own prompts, then LoRA and head on their checked steps (9 and 13 minutes)"
baseline=$bundle/baseline   # the same generator, judged by its own log-probabilities
mkdir -p "$baseline"
[ -d "$baseline/generator" ] || cp -r "$bundle/generator" "$baseline/"
sed 's/"kind": "prm"/"kind": "log_prob"/; s/"adapter": "verifier"/"adapter": null/; s/: 106204033/: 0/' \
  "$bundle/engine.json" > "$baseline/engine.json"
$router collect --engine "$baseline" --prompts $data/verifier.jsonl --attempts 8 --out "$attempts/verifier.parquet"
[ -f "$bundle/verifier/adapter_model.safetensors" ] ||
  $router train-verifier "$attempts/verifier.parquet" --engine "$bundle" --solutions $data/verifier.jsonl

stage "attempts: pools, then the searches that can't be replayed from a pool (an hour)"
for set in tune heldout; do
  $router collect --engine "$bundle" --prompts $data/$set.jsonl --attempts 16 --out "$attempts/$set.parquet" \
    --arm single --arm "beam_search(n=4, m=4)" --arm "beam_search(n=8, m=4)" --arm "dvts(n=8, m=4)" \
    --arm "revision(n=4, chains=2)"
done

stage "verifier against its baseline, on the held-out prompts"
$router collect --engine "$baseline" --prompts $data/heldout.jsonl --attempts 16 --out "$baseline/heldout.parquet"
$router judge "$baseline/heldout.parquet" "$attempts/heldout.parquet"

stage "difficulty model and policy (seconds)"
$router train "$attempts/tune.parquet" --bundle "$bundle"
$router tune "$attempts/tune.parquet" --bundle "$bundle" --budgets 1,2,4,8,16

stage "report on the held-out prompts"
$router evaluate "$attempts/heldout.parquet" --bundle "$bundle" --out "$bundle/report"
