"""Read exports with the loaders of other trainers, and compare their tokens with TRL's.

    pip install --no-deps --target /tmp/llamafactory llamafactory     # or axolotl, or verl
    PYTHONPATH=tests:/tmp/llamafactory python benchmarks/layouts.py llamafactory

It exports a synthetic forest with odd texts, and prints a line per export: the texts that the tool
read, and in how many it would train on the same tokens under the loss as TRL, within the same
context. TRL's are those of `Fit` (its own trainers take them: tests/exporters/test_trl.py).
The tokenizer is the embedded model's. The tools need more packages; install what an import misses
with `--no-deps` too. LLaMA-Factory imports torchaudio, of which text needs nothing: an empty
`torchaudio.py` on the path will do; DISABLE_VERSION_CHECK=1 lets it run with newer libraries.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from synthetic import begin, make_forest

from malt_data.engines.embedded import EMBEDDED
from malt_data.errors import SpecError
from malt_data.exporters.export import export
from malt_data.exporters.fit import load_fit
from malt_data.forests.forest import Forest
from malt_data.schemas.exports import config_of

Tokens = tuple[list[int], list[int]]
"""All tokens of a text with its prompt, and those of them under the loss."""
BEGINNINGS = ["", " ", "\n", "🙂 ", "<|im_end|>\n<|im_start|>user\n", "日本\u202e", "\t{question}"]
FORMATS = ("sft", "dpo", "kto", "trajectory", "value")


def trl(folder: Path, tokenizer: Any) -> list[Tokens]:
    """Return what TRL trains on, a side of a row at a time."""
    found = []
    for path in sorted(folder.glob("train-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            for side in ("completion", "chosen", "rejected"):
                if side in row:
                    prompt = _chat(tokenizer, row["prompt"], add_generation_prompt=True)
                    whole = _chat(tokenizer, row["prompt"] + row[side])
                    found.append((whole, whole[len(prompt) :]))
    return found


def _chat(tokenizer: Any, messages: Any, **options: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(messages, return_dict=False, **options)
    return ids


def llamafactory(folder: Path, name: str, form: str, tokenizer: Any) -> Iterator[Tokens]:
    """LLaMA-Factory's `get_dataset`, which reads, converts and tokenizes.

    Its template of the model is its own, with another default system prompt: that is set right.
    """
    from llamafactory.data.loader import get_dataset
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    opening = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    system = opening.partition("system\n")[2].partition(tokenizer.eos_token)[0]
    data = DataArguments(
        template="smollm2",
        default_system=system,
        dataset=name,
        dataset_dir=str(folder),
        overwrite_cache=True,
    )
    data.cutoff_len = 10**6
    training = Seq2SeqTrainingArguments(output_dir=str(folder / "run"), use_cpu=True)
    template = get_template_and_fix_tokenizer(tokenizer, data)
    stage = {"dpo": "rm", "kto": "kto"}.get(form, "sft")
    model = ModelArguments(model_name_or_path="none")
    rows = get_dataset(template, model, data, training, stage, tokenizer)["train_dataset"]
    for row in rows:
        for side in ("chosen_", "rejected_") if form == "dpo" else ("",):
            yield _kept(row[f"{side}input_ids"], row[f"{side}labels"])


def axolotl(folder: Path, name: str, form: str, tokenizer: Any) -> Iterator[Tokens]:
    """Axolotl's loader and strategies, with the config that the export has beside it."""
    from axolotl.prompt_strategies.chat_template import load
    from axolotl.prompt_strategies.dpo import load as load_dpo
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault

    settings = yaml.safe_load((folder / "axolotl.yaml").read_text("utf-8"))
    config = DictDefault({**settings, "sequence_len": 10**6, "train_on_inputs": False})
    dataset = config.datasets[0]
    rows = load_dataset_with_config(dataset, use_auth_token=False)
    if form != "dpo":
        strategy = load(tokenizer, config, dict(dataset))
        for row in rows:
            read = strategy.tokenize_prompt(row)
            yield _kept(read["input_ids"], read["labels"])
        return
    transform = load_dpo(dataset.type, config, dataset_idx=0)[0]
    for row in rows:
        texts = transform(row, tokenizer=tokenizer)
        prompt = tokenizer(texts["prompt"])["input_ids"]
        for side in ("chosen", "rejected"):  # TRL gets text: it tokenizes the two joined, with EOS
            text = texts[side].removesuffix(tokenizer.eos_token) + tokenizer.eos_token
            whole = tokenizer(texts["prompt"] + text)["input_ids"]
            yield whole, whole[len(prompt) :]


def verl(folder: Path, name: str, form: str, tokenizer: Any) -> Iterator[Tokens]:
    """The datasets of verl's SFT trainer and of its RL trainers, whose prompts have no loss."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
    from verl.utils.dataset.rl_dataset import RLHFDataset

    files = [str(path) for path in sorted(folder.glob("train-*.parquet"))]
    if form == "value":
        options = {"cache_dir": str(folder / "cache"), "max_prompt_length": 10**6}
        prompts = RLHFDataset(files, tokenizer, OmegaConf.create(options))
        for row in (prompts[i] for i in range(len(prompts))):
            assert row["reward_model"]["ground_truth"] is not None
            yield _chat(tokenizer, row["raw_prompt"], add_generation_prompt=True), []
        return
    options = {"max_length": 10**6, "pad_mode": "no_padding"}
    rows = MultiTurnSFTDataset(files, tokenizer, OmegaConf.create(options))
    for row in (rows[i] for i in range(len(rows))):
        ids, mask = row["input_ids"].tolist(), row["loss_mask"].tolist()
        yield ids, [token for token, learnt in zip(ids, mask, strict=True) if learnt]


def _to_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return the tokens without what follows the last end of a turn: a line break, in ChatML."""
    last = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id) if ids else -1
    return ids[: last + 1]


def _kept(ids: list[int], labels: list[int]) -> Tokens:
    return ids, [label for label in labels if label != -100]


def compare(forest: Forest, tool: str, read: Callable[..., Iterator[Tokens]], out: Path) -> None:
    tokenizer = load_fit(EMBEDDED).tokenizer
    role = forest.manifest.spec.pipeline.roles[-1]
    for form in FORMATS:
        config = config_of(None if form == "trajectory" else role, form)
        folder = out / f"{config.name}_{tool}"
        try:
            report = export(forest, config, out=folder, layout=tool)
        except SpecError as error:
            print(f"{config.name}: refused ({error})")
            continue
        export(forest, config, report.selection, out / config.name)
        expected = trl(out / config.name, tokenizer)
        if form == "value":  # for RL: prompts only
            expected = [(whole[: len(whole) - len(loss)], []) for whole, loss in expected]
        found = list(read(folder, config.name, form, copy.deepcopy(tokenizer)))
        ends = [tuple(_to_end(tokenizer, ids) for ids in tokens) for tokens in (*expected, *found)]
        pairs = list(zip(expected, found, ends, ends[len(expected) :], strict=False))
        same = sum(left == right for left, right, *_ in pairs)
        turn = sum(left == right for *_, left, right in pairs)
        print(
            f"{config.name}: {len(found)} texts of {len(expected)}, {same} with the same tokens, "
            f"{turn} up to the end of the turn"
        )
        for left, right in [(a, b) for a, b, *ends in pairs if ends[0] != ends[1]][:1]:
            print(f"  TRL       {tokenizer.decode(left[0])!r}\n  its loss  {left[1]}")
            print(f"  {tool:9} {tokenizer.decode(right[0])!r}\n  its loss  {right[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    tools = {"llamafactory": llamafactory, "axolotl": axolotl, "verl": verl}
    parser.add_argument("tool", choices=tools)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        forest = make_forest(Path(out) / "forest", trees=12, n=(2, 2, 3))
        begin(forest, BEGINNINGS)
        compare(forest, args.tool, tools[args.tool], Path(out))


if __name__ == "__main__":
    main()
