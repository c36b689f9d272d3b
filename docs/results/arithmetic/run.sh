#!/bin/sh
# The whole circle on two cores: questions, trees, training sets, adapters, evaluation.
# Every step is left as it is where it is done, and goes on where it was interrupted.
#
#     sh docs/results/arithmetic/run.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-arithmetic}"
cd "${1:-arithmetic}"

python "$here/questions.py" questions.jsonl
malt-data build --out forest --questions questions.jsonl --prompts "$here/prompts.toml" \
    --max-tokens 20 --concurrency 192
malt-data export forest
malt-data train --role all --dataset forest --config "$here/train.toml" --out team
malt-data eval --questions questions.jsonl --team team/team.toml --concurrency 192 \
    --seeds 1 --limit 100 \
    --settings sa,sa+mv,ma,ma+mv,star-sa,star-sa+mv,star-ma,star-ma+mv,malt,malt+mv \
    --against malt+mv --figures --markdown --out results >table.md
cat table.md
