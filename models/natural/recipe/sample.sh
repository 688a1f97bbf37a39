#!/usr/bin/env bash
# Attempts of one model at the natural tasks' prompts: hours on two cores, minutes on a GPU.
#
#   models/natural/recipe/sample.sh small|large [TASK-PART ...]
#
# By default all six of {gsm8k,mbpp,mmlu-stem}-{tune,heldout}, the tune parts first. Sampled by pieces of 50 prompts into
# one file a part, so that what there is when this is cut short is whole for a random part of the prompts. Can be killed
# and started again: what a file holds is not sampled again. `small` and `large` write to the same files: one at a time.
# PIECE=300 takes larger pieces, which is faster where a prompt has few attempts: the last long ones then go together.
# To try it: PROMPTS=3 ATTEMPTS=2 OUT=build/try models/natural/recipe/sample.sh small
set -euo pipefail
cd "$(dirname "$0")/../../.."
natural=models/natural
python=${PYTHON:-.venv/bin/python}
size=${PIECE:-50}
model=${1:?small or large}
shift
[ $# -gt 0 ] || set -- {gsm8k,mbpp,mmlu-stem}-tune {gsm8k,mbpp,mmlu-stem}-heldout
PYTHONPATH=. $python $natural/recipe/fetch.py small
[ "$model" = small ] || PYTHONPATH=. $python $natural/recipe/fetch.py "$model"
out=${OUT:-$natural/attempts}
mkdir -p build/natural "$out"

for part; do
  data=$natural/recipe/data/$part.jsonl
  case $model-$part in
    small-mmlu-stem-*) attempts=8 ;;
    small-*) attempts=16 ;;
    large-*-heldout) attempts=8 ;;
    large-gsm8k-*) attempts=4 ;;
    large-mbpp-*) attempts=8 ;;
    large-mmlu-stem-*) attempts=0 ;;
  esac
  attempts=${ATTEMPTS:-$attempts}
  what=(--attempts "$attempts")
  if [ "$model" != small ]; then
    what=(--attempts 0 --arm "single(model=$model)")
    [ "$attempts" = 0 ] || what+=(--pool "$model=$attempts")
  fi
  task=${part%-*}
  [ "$task" != mbpp ] || what+=(--allow-code)
  prompts=$(wc -l < "$data")
  most=${PROMPTS:-$prompts}
  for ((end = size; end < most + size; end += size)); do
    head -n $((end < most ? end : most)) "$data" > "build/natural/$part.jsonl"
    $python -m router.cli collect --bundle "$natural/$task" --prompts "build/natural/$part.jsonl" "${what[@]}" \
      --out "$out/$part.parquet"
  done
done
