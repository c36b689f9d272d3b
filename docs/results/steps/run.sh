#!/bin/sh
# The whole circle on two cores: questions, base model, trees, training sets, adapters, evaluation.
# Every step is left as it is where it is done, and goes on where it was interrupted.
#
#     sh docs/results/steps/run.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-steps}"
cd "${1:-steps}"

python "$here/questions.py" start.jsonl questions.jsonl
[ -f start/tokenizer.json ] || python "$here/start.py" start.jsonl start
malt-data build --out forest --questions questions.jsonl --model start \
    --prompts "$here/prompts.toml" --temperature 1.0 --max-tokens 40 --concurrency 192
malt-data export forest
malt-data train --role all --dataset forest --config "$here/recipe.toml" --out team
malt-data eval --questions questions.jsonl --team team/team.toml --concurrency 192 \
    --temperature 0.3 --seeds 2 \
    --settings sa,sa+mv,ma,ma+mv,star-sa,star-sa+mv,star-ma,star-ma+mv,malt,malt+mv \
    --against malt+mv --figures --markdown --out cold >cold.md
malt-data eval --questions questions.jsonl --team team/team.toml --concurrency 192 \
    --temperature 1.0 --seeds 1 --limit 100 \
    --settings star-sa,star-sa+mv,star-ma,star-ma+mv,malt,malt+mv \
    --against malt+mv --figures --markdown --out warm >warm.md
malt-data eval --questions questions.jsonl --team team/team.toml --concurrency 192 \
    --temperature 0.3 --seeds 1 \
    --settings debate,malt-base-g,malt-base-v,malt-base-r,malt-g,malt-gv,malt-gr,malt \
    --against malt --markdown --out ablations >ablations.md
cat cold.md warm.md ablations.md
