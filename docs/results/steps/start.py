"""Teach SmolLM2-135M to add three numbers in two ways: at once (three of four times) or in steps.

    python docs/results/steps/start.py start.jsonl FOLDER

The result is the base model of the experiment, for all settings. The training data does not show
which way is better, and teaches neither verifying nor refining. Takes about nine minutes on two
cores.
"""

import json
import random
import re
import sys
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from malt_data.engines.embedded import resolve


def rows(path: Path) -> Dataset:
    """Return four prompt-completion rows per question: three at once, one in steps."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)["question"]
        a, b, c = map(int, re.findall(r"\d+", question))
        at_once = f"Final Answer: {a + b + c}"
        in_steps = f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}. {at_once}"
        found += [
            {
                "prompt": [
                    {"role": "system", "content": "You add numbers."},
                    {"role": "user", "content": question},
                ],
                "completion": [{"role": "assistant", "content": text}],
            }
            for text in (at_once, at_once, at_once, in_steps)
        ]
    random.Random(0).shuffle(found)
    return Dataset.from_list(found)


def main(questions: Path, folder: Path) -> None:
    embedded = str(resolve("smollm2-135m"))
    trainer = SFTTrainer(
        model=embedded,
        args=SFTConfig(
            output_dir=str(folder),
            model_init_kwargs={"dtype": "float32"},
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=5e-4,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            per_device_train_batch_size=8,
            max_steps=160,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=rows(questions),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.train()
    trainer.model.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
