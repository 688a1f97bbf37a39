#!/usr/bin/env bash
# Attempts of the shipped bundle at new held-out prompts (data/fresh.jsonl), by pieces of 50 prompts: what was sampled
# when this is cut short is whole for a random part of the prompts. Can be killed and started again.
#
#   models/smollm2-135m/recipe/fresh.sh [FIRST [LAST]]     (pieces of 50, default: 1 to 12, the first 600 prompts)
#
# BUNDLE and DATA name other folders than the shipped bundle's and the recipe's data.
set -euo pipefail
cd "$(dirname "$0")/../../.."
bundle=${BUNDLE:-models/smollm2-135m}
data=${DATA:-models/smollm2-135m/recipe/data}
size=50
python=${PYTHON:-.venv/bin/python}
mkdir -p build/fresh
# In order of use: the pool, what the cascades begin with, then larger searches.
arms=(single "beam_search(n=4, m=4)" "beam_search(n=8, m=4)" "dvts(n=16, m=4, stop=0.6)" "beam_search(n=16, m=4)"
  "dvts(n=16, m=2, stop=0.6)" "revision(n=4, chains=1)" "revision(n=4, chains=2)" "revision(n=8, chains=4)"
  "dvts(n=16, m=4)" "lookahead(n=4, m=4, k=1)" "beam_search(n=32, m=4)" "dvts(n=32, m=4)")
for piece in $(seq "${1:-1}" "${2:-12}"); do
  prompts=$(printf 'build/fresh/%02d.jsonl' "$piece")
  head -n $((piece * size)) $data/fresh.jsonl | tail -n $size > "$prompts"
  $python -m router.cli collect --bundle $bundle --prompts "$prompts" --attempts "${ATTEMPTS:-64}" "${arms[@]/#/--arm=}" \
    --out "$bundle/attempts/$(printf 'fresh-%02d' "$piece").parquet"
done
