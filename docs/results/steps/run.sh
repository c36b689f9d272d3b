#!/bin/sh
# The complete experiment on two cores: questions, base model, trees, training sets, adapters,
# evaluation. To resume it after an interruption, run it again; finished steps are skipped.
#
#     sh docs/results/steps/run.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:-steps}"
cd "${1:-steps}"

build() {
    malt-data build --questions questions.jsonl --model start --prompts "$here/prompts.toml" \
        --temperature 1.0 --max-tokens 40 --concurrency 192 "$@"
}
evaluate() {
    malt-data eval --questions questions.jsonl --concurrency 192 --markdown "$@"
}
star=star-sa,star-sa+mv,star-ma,star-ma+mv

python "$here/questions.py" start.jsonl questions.jsonl
[ -f start/tokenizer.json ] || python "$here/start.py" start.jsonl start
build --out forest
malt-data export forest
malt-data train --role all --dataset forest --config "$here/recipe.toml" --out team
evaluate --team team/team.toml --temperature 0.3 --seeds 2 \
    --settings sa,sa+mv,ma,ma+mv,$star,malt,malt+mv --against malt+mv --figures --out cold >cold.md
evaluate --team team/team.toml --temperature 1.0 --seeds 1 --limit 100 \
    --settings $star,malt,malt+mv --against malt+mv --figures --out warm >warm.md
evaluate --team team/team.toml --temperature 0.3 --seeds 1 --limit 100 \
    --settings debate,malt-base-g,malt-base-v,malt-base-r,malt-g,malt-gv,malt-gr,malt \
    --against malt --out ablations >ablations.md

# A baseline on equal terms: SFT for as many further steps as DPO had.
evaluate --team team/team.toml --temperature 0.3 --seeds 2 --out long \
    --settings $star,star-sa-long,star-sa-long+mv,star-ma-long,star-ma-long+mv >long.md

# A lone generator with DPO on its own pairs; `train --role all` has already trained this baseline.
sed '/^\[sft\]/,$!s/generator_sft/generator_dpo/' team/team.toml >team/generator_dpo.toml
evaluate --team team/generator_dpo.toml --temperature 0.3 --seeds 2 --settings malt-g,malt-g+mv \
    --out lone >lone.md

# A second team: trees and adapters with another seed.
mkdir -p again
build --out again/forest --seed 1
malt-data export again/forest
{ cat "$here/recipe.toml" && echo "seed = 1"; } >again/recipe.toml
malt-data train --role all --no-baselines --dataset again/forest --config again/recipe.toml \
    --out again/team
evaluate --team again/team/team.toml --temperature 0.3 --seeds 1 \
    --settings $star,malt,malt+mv --against malt+mv --out again/cold >again/cold.md

for table in cold warm ablations long lone again/cold; do
    echo
    cat $table.md
done
