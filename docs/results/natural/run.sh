#!/bin/sh
# One team of one task: trees, adapters, baselines, evaluation, in one to two and a half hours on
# one core. To resume it after an interruption, run it again; finished steps are skipped.
# Teams with different questions (ASKED) need different folders.
#
#     sh docs/results/natural/run.sh TASK SEED [FOLDER]
#     ASKED=1 sh docs/results/natural/run.sh greater 0    # the questions of greater/0
set -eu
here=$(cd "$(dirname "$0")" && pwd)
task=$1 seed=$2 folder=${3:-natural}/$1
mkdir -p "$folder/$seed"
cd "$folder/$seed"

plain() { # COMMAND …: on the task's questions, in plain text
    command=$1
    shift
    malt-data "$command" --questions ../questions.jsonl --engine "${ENGINE:-vllm}" \
        --config ../plain.toml --concurrency 128 "$@"
}
grow() {
    plain build --prompts "$here/prompts/$prompts.toml" --limit 100 --n 3 --temperature "$heat" \
        --max-tokens 16 "$@"
}
train() {
    malt-data train --config "$here/recipe.toml" --model smollm2-135m --seed "$seed" "$@"
}

python "$here/questions.py" "$task" ../questions.jsonl ${ASKED:-}
printf '%s\n' '[chat_template]' 'plain = true' >../plain.toml
case $task in greater | divisible) set -- --grader "$here/grade.py:grade" ;; *) set -- ;; esac
case $task in
shopping | bulk) heat=0.7 first=again-trees prompts=shopping ;;
*) heat=1.0 first=trees prompts=$task ;;
esac

grow --seed "$seed" --out trees "$@"
malt-data export trees
train --role all --stage sft --dataset trees --out team

# A second round: trees grown by the first, with as many samples.
grow --team team/team.toml --adapters sft --seed "$((seed + 100))" --out again-trees "$@"
malt-data export again-trees
train --role all --stage sft --dataset again-trees --out again

# Verifier and refiner learn from pairs of trees that the team grew, the generator from those that
# were chosen for the task (PROTOCOL.md).
dpo() { # ROLE TREES, 40 steps but at most 10 passes, as in the paper (§A.9)
    rows=$(python -c 'import json, sys
print(json.load(open(sys.argv[1]))["rows"].get("train", 0))' "$2/exports/$1_dpo/export.json")
    if [ "$rows" -eq 0 ]; then # nothing to learn from: the role stays as it is
        mkdir -p pairs
        ln -sfn "../team/$1_sft" "pairs/$1_dpo"
        return
    fi
    steps=$((10 * rows / 4))
    train --role "$1" --stage dpo --dataset "$2" --adapter "team/$1_sft" --out "pairs/$1_dpo" \
        --max-steps "$((steps > 40 ? 40 : steps))"
}
dpo generator "$first"
dpo verifier again-trees
dpo refiner again-trees

# STaR on as many rows of either answer, where there are two.
if [ "$prompts" != shopping ]; then
    python "$here/balanced.py" trees/exports balanced/rows
    train --role generator --stage sft --dataset balanced/rows/generator_sft \
        --out balanced/generator_sft
    more=star-sa-balanced+mv against=malt-again+mv
else
    more=star-sa-again-11,malt-later+mv,malt-both+mv against=malt-both+mv
fi

cat team/team.toml "$here/adapters.toml" >team/all.toml
settings=sa+mv,star-sa+mv,star-ma+mv,star-sa-again+mv,star-ma-again+mv,$more
plain eval --team team/all.toml --temperature 0.3 --seeds 1 --against "$against" \
    --settings "$settings,malt-lone+mv,malt-again+mv" --settings-file "$here/settings.toml" \
    --figures --markdown --out results "$@" >results.md
cat results.md
