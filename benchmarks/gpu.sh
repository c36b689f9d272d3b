#!/usr/bin/env bash
# Everything that malt-data does on an NVIDIA GPU, once, with its figures.
#
#     bash benchmarks/gpu.sh                         # about an hour on one GPU with 24 GB
#     MODEL=Qwen/Qwen3-8B TREES=512 bash benchmarks/gpu.sh
#
# Run it in an environment with: pip install -e '.[vllm,train,openai,ray]' bitsandbytes
# It stops at the first step that fails. Its figures are in $OUT/figures.jsonl, a line a step: speed
# against bare vLLM and against TRL's own script, tokens a second, peak memory, seconds.
# ANY_DEVICE=1 runs the same steps without a GPU, to try the script itself with a small model.
set -euo pipefail

MODEL=${MODEL:-Qwen/Qwen3-0.6B}
QUESTIONS=${QUESTIONS:-gsm8k}
TREES=${TREES:-128}        # of the forest; its pairs are what is trained on
MAX_TOKENS=${MAX_TOKENS:-512}
STEPS=${STEPS:-50}         # of training, in each stage
OUT=${OUT:-gpu-run}
PYTHON=${PYTHON:-python}
here=$(cd "$(dirname "$0")" && pwd)
malt() { "$PYTHON" -m malt_data "$@"; }
step() { printf '\n== %s\n' "$1" >&2; }

# figure NAME FILE KEY...: keep these keys of a JSON file
figure() {
    "$PYTHON" - "$@" >>"$OUT/figures.jsonl" <<'PY'
import json, sys
name, path, *keys = sys.argv[1:]
facts = json.load(open(path))
facts = facts["runs"][-1] if "runs" in facts else facts
print(json.dumps({"step": name, **{key: facts.get(key) for key in keys}}))
PY
    tail -n 1 "$OUT/figures.jsonl"
}

gpus=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)
if [[ $gpus -eq 0 && -z ${ANY_DEVICE:-} ]]; then
    echo "No NVIDIA GPU here (nvidia-smi lists none)." >&2
    exit 1
fi
mkdir -p "$OUT"

step "a build against bare vLLM, on the same prompts"
"$PYTHON" "$here/bare_vllm.py" --model "$MODEL" --questions "$QUESTIONS" --trees "$TREES" \
    --max-tokens "$MAX_TOKENS" --concurrency 256 | tee -a "$OUT/figures.jsonl"

step "a forest with the vllm engine (bfloat16)"
cat >"$OUT/build.toml" <<TOML
temperature = 0.7
[engine]
name = "vllm"
dtype = "${DTYPE:-bfloat16}"
TOML
malt build --config "$OUT/build.toml" --model "$MODEL" --questions "$QUESTIONS" --limit "$TREES" \
    --n 3 --max-tokens "$MAX_TOKENS" --out "$OUT/forest"
figure build "$OUT/forest/forest.json" completions tokens_per_second seconds peak_gpu_memory \
    prompt_computed prompt_least gpu
malt stats "$OUT/forest"

if [[ $gpus -gt 1 ]]; then
    step "the same on $gpus replicas"
    malt build --config "$OUT/build.toml" --model "$MODEL" --questions "$QUESTIONS" \
        --limit "$TREES" --n 3 --max-tokens "$MAX_TOKENS" --out "$OUT/replicas" --replicas "$gpus"
    figure replicas "$OUT/replicas/forest.json" completions tokens_per_second seconds
fi

step "the training sets, tried on the model's chat template"
malt export "$OUT/forest"
malt export "$OUT/forest" --check

step "the whole recipe (bf16 and gradient checkpointing are the defaults on a GPU)"
malt train --role all --dataset "$OUT/forest" --model "$MODEL" --max-steps "$STEPS" \
    --out "$OUT/team"
for adapter in "$OUT"/team/*_sft "$OUT"/team/*_dpo; do
    figure "train $(basename "$adapter")" "$adapter/training.json" rows steps seconds \
        tokens_per_second peak_memory
done

role=generator
device=(--bf16 True)
if [[ $gpus -eq 0 ]]; then
    device=(--bf16 False --use_cpu True)
fi
step "the same SFT by TRL's own script"
started=$(date +%s)
"$PYTHON" -m trl.scripts.sft --model_name_or_path "$(
    "$PYTHON" -c "import sys; from malt_data.engines.embedded import resolve; print(resolve(sys.argv[1]))" "$MODEL"
)" --dataset_name "$OUT/forest/exports/${role}_sft" --dataset_train_split train \
    --use_peft --lora_target_modules all-linear --lora_r 16 --lora_alpha 32 --max_steps "$STEPS" \
    --per_device_train_batch_size 8 --learning_rate 1e-4 --report_to none "${device[@]}" \
    --output_dir "$OUT/trl_sft" >"$OUT/trl_sft.log" 2>&1
echo "{\"step\": \"TRL's script, ${role}_sft\", \"seconds\": $(($(date +%s) - started))}" |
    tee -a "$OUT/figures.jsonl"
grep -o "'train_[a-z_]*': '\?[0-9.]*" "$OUT/trl_sft.log" | tail -n 4

if [[ $gpus -gt 0 ]]; then
    step "one role in 4 bits"
    echo 'quantize = "4bit"' >"$OUT/4bit.toml"
    malt train --role "$role" --stage sft --dataset "$OUT/forest" --model "$MODEL" \
        --config "$OUT/4bit.toml" --max-steps "$STEPS" --out "$OUT/4bit"
    figure "train 4bit" "$OUT/4bit/training.json" steps seconds tokens_per_second peak_memory
fi

step "the team's adapters served by vLLM: an evaluation and the next round"
malt eval --questions "$QUESTIONS" --team "$OUT/team/team.toml" --settings sa,malt --limit 64 \
    --engine vllm --allow-seen --out "$OUT/results"
figure eval "$OUT/results/eval.json" completions tokens_per_second seconds
malt build --team "$OUT/team/team.toml" --questions "$QUESTIONS" --limit 16 --engine vllm \
    --out "$OUT/round-2"
figure "round 2" "$OUT/round-2/forest.json" completions tokens_per_second seconds

step "done: $OUT/figures.jsonl"
cat "$OUT/figures.jsonl"
