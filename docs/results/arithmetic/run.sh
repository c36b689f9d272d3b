#!/bin/sh
# The complete experiment on two cores, in two rounds: questions, trees, training sets, adapters,
# evaluation. To resume it after an interruption, run it again; finished steps are skipped.
#
#     sh docs/results/arithmetic/run.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-arithmetic}"
cd "${1:-arithmetic}"

# First round: trees of the base model.
python "$here/questions.py" questions.jsonl
malt-data build --out forest --questions questions.jsonl --prompts "$here/prompts.toml" \
    --max-tokens 20 --concurrency 192
malt-data export forest
malt-data train --role all --no-baselines --dataset forest --config "$here/first.toml" --out team
malt-data eval --questions questions.jsonl --team team/team.toml --concurrency 192 \
    --seeds 1 --limit 100 \
    --settings sa,sa+mv,ma,ma+mv,star-sa,star-sa+mv,star-ma,star-ma+mv,malt,malt+mv \
    --against malt+mv --figures --markdown --out first >first.md
cat first.md

# Second round: trees of the first round's team after SFT.
sed 's/_dpo"/_sft"/' team/team.toml >team/sft.toml
malt-data build --out forest2 --questions questions.jsonl --team team/sft.toml \
    --temperature 1.0 --max-tokens 20 --concurrency 192
malt-data export forest2
malt-data train --role all --no-baselines --dataset forest2 --config "$here/second.toml" --out team2
malt-data eval --questions questions.jsonl --team team2/team.toml --concurrency 192 \
    --seeds 1 --settings star-sa,star-sa+mv,star-ma,star-ma+mv,malt,malt+mv \
    --against malt+mv --figures --markdown --out second >second.md
cat second.md
