#!/usr/bin/env bash
# The bundle from nothing: fine-tune, sample, judge, train, tune, evaluate. Two hours on two cores.
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

stage "PRM: attempts at its own prompts, then LoRA and head on their checked steps (9 and 10 minutes)"
$router collect --engine "$bundle" --prompts $data/verifier.jsonl --attempts 8 --out "$attempts/verifier.parquet"
prm=$bundle/prm
mkdir -p "$prm" && cp $recipe/engine-prm.json "$prm/engine.json"
[ -d "$prm/generator" ] || cp -r "$bundle/generator" "$prm/"
if [ ! -f "$bundle/verifier/adapter_model.safetensors" ]; then
  $router train-verifier "$attempts/verifier.parquet" --engine "$prm" --solutions $data/verifier.jsonl
  cp -r "$prm/verifier" "$bundle/"
fi
[ -d "$prm/verifier" ] || cp -r "$bundle/verifier" "$prm/"

stage "attempts: pools, then the searches that can't be replayed from a pool (three quarters of an hour)"
for set in tune heldout; do
  $router collect --engine "$bundle" --prompts $data/$set.jsonl --attempts 16 --out "$attempts/$set.parquet" \
    --arm single --arm "beam_search(n=4, m=4)" --arm "dvts(n=8, m=4)"
done

stage "the PRM against the log-probability, on the same held-out attempts (2 minutes)"
[ -f "$prm/heldout-prm.parquet" ] || $router score "$attempts/heldout.parquet" --engine "$prm" --out "$prm/heldout-prm.parquet"
$router judge --json "$attempts/heldout.parquet" "$prm/heldout-prm.parquet" | tee "$bundle/judged.jsonl"

stage "difficulty model and policy (a minute)"
$router train "$attempts/tune.parquet" --bundle "$bundle"
$router tune "$attempts/tune.parquet" --bundle "$bundle"

stage "report and card, on the held-out prompts"
$router evaluate "$attempts/heldout.parquet" --bundle "$bundle" --out "$bundle/report" --judged "$bundle/judged.jsonl"
