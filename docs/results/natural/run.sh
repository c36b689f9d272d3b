#!/bin/sh
# One team of one task: trees, training sets, adapters, baselines, evaluation, in some two hours on
# two cores. To resume it after an interruption, run it again; finished steps are skipped.
#
#     sh docs/results/natural/run.sh TASK SEED [FOLDER]
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
    plain build --prompts "$here/prompts/$task.toml" --limit 100 --n 3 --temperature 1.0 \
        --max-tokens 16 "$@"
}
train() {
    malt-data train --config "$here/recipe.toml" --seed "$seed" "$@"
}
adapters() { # NAME: the adapters of a folder as a set of that name
    echo "[own.$1]"
    for role in generator verifier refiner; do
        echo "$role = \"../$1/${role}_sft\""
    done
}

python "$here/questions.py" "$task" ../questions.jsonl
printf '%s\n' '[chat_template]' 'plain = true' >../plain.toml
case $task in greater | divisible) set -- --grader "$here/grade.py:grade" ;; *) set -- ;; esac

grow --seed "$seed" --out trees "$@"
malt-data export trees
train --role all --dataset trees --out team

# A second round of STaR: trees grown by the first, with as many samples.
grow --team team/team.toml --adapters sft --seed "$((seed + 100))" --out again-trees "$@"
malt-data export again-trees --format sft
train --role all --stage sft --dataset again-trees --out again

# STaR on as many rows of either answer.
python "$here/balanced.py" trees/exports balanced/rows
for role in generator verifier refiner; do
    train --role "$role" --stage sft --dataset "balanced/rows/${role}_sft" --model smollm2-135m \
        --out "balanced/${role}_sft"
done

{ cat team/team.toml && adapters again && adapters balanced; } >team/all.toml
chains="sa sa+mv ma ma+mv"
stars=$(for star in star-sa star-ma; do
    for kind in "" -long -again -balanced; do echo "$star$kind $star$kind+mv"; done
done)
settings=$(echo $chains $stars malt-lone malt-lone+mv shared shared+mv malt malt+mv | tr ' ' ,)
plain eval --team team/all.toml --temperature 0.3 --seeds 1 --settings "$settings" \
    --settings-file "$here/settings.toml" --against malt+mv --figures --markdown --out results \
    "$@" >results.md
cat results.md
