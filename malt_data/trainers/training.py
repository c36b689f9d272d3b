"""The common part of SFT and DPO: planning, resuming, and the files of an adapter.

out/
  adapter_config.json, adapter_model.safetensors    loaded by PEFT and vLLM
  README.md        model card: data commit, hyperparameters, curves, dropped rows
  training.json    the same as JSON; written last, so it marks a finished run
  plan.json        what the run was started with
  questions.txt    ids of the training questions, to keep them out of evaluations
  metrics.jsonl    one line per logged step
  curves.svg       loss, and the reward margin of DPO
  checkpoints/     to resume from after a kill; removed at the end
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import SpecError, TrainError, one_line
from malt_data.storage.documents import read_json
from malt_data.storage.files import write_errors, write_text
from malt_data.storage.team import QUESTIONS, questions_of
from malt_data.trainers.base import load_base, model_of
from malt_data.trainers.card import render_adapter_card
from malt_data.trainers.costs import CostLogger, costs, last_values
from malt_data.trainers.curves import plot_curves
from malt_data.trainers.data import Data, load_rows
from malt_data.trainers.fitting import fit_rows
from malt_data.trainers.recipe import MOST_EPOCHS, Recipe, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OnProgress = Callable[[int, int], None]
"""Called after each step with the steps done and the total."""

RECORD = "training.json"
CHECKPOINTS = "checkpoints"
PLAN = "plan.json"
_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets")


@dataclass(frozen=True)
class Task:
    """One training run with its data loaded and its base model chosen."""

    role: str
    stage: Stage
    data: Data
    model: str
    recipe: Recipe
    plan: dict[str, Any]
    out: Path
    note: Callable[[str], None] = lambda _: None
    fitted: dict[str, Any] = field(default_factory=dict)
    """The facts of `fit_rows`: rows, max_length, left_out."""

    def finished(self) -> dict[str, Any] | None:
        """Return the record of a finished run in `out`; None if there is work to do.

        Raises TrainError if `out` contains a run with another plan, or other files.
        """
        out, plan = self.out, self.plan
        if not any(path.is_file() for path in out.rglob("*")):  # or a run that failed at its start
            return None
        try:
            before = read_json(out / PLAN)
        except (OSError, ValueError):
            raise TrainError(
                f"{out} contains other files. Choose a new folder: --out NAME"
            ) from None
        # What an older version did not write down is not compared.
        if differing := [key for key in plan if before.get(key, plan[key]) != plan[key]]:
            raise TrainError(
                f"{out} was started with a different {', '.join(differing)} "
                f"({before.get(differing[0])!r}, now {plan[differing[0]]!r}). Use the same one, or "
                "a new folder: --out NAME"
            )
        if not (out / RECORD).exists():
            return None
        try:
            return read_json(out / RECORD)
        except (OSError, ValueError) as error:
            raise TrainError(
                f"{out / RECORD} cannot be read ({one_line(error)}). Restore it, or train into a "
                "new folder: --out NAME"
            ) from None

    def load(self) -> "tuple[Task, Any, PreTrainedTokenizerBase]":
        """Load model and tokenizer; return them with the task reduced to the rows that fit."""
        with quiet_libraries(datasets=True):
            model, tokenizer = load_base(self.model, self.recipe.quantize)
            arguments = self.recipe.arguments(self.stage, len(self.data.train))
            max_length = arguments.get("max_length")
            data, facts = fit_rows(self.data, tokenizer, model.config, max_length, self.note)
        return replace(self, data=data, fitted=facts), model, tokenizer

    def config(self, kind: Any) -> Any:
        """Return TRL's config object; raise SpecError for an invalid key or value."""
        import torch

        arguments = self.recipe.arguments(self.stage, len(self.data.train))
        arguments["max_length"] = self.fitted["max_length"]
        arguments["output_dir"] = str(self.out / CHECKPOINTS)
        if self.plan["max_steps"] is not None:
            arguments["max_steps"] = self.plan["max_steps"]
        gpu = torch.cuda.is_available()
        arguments.setdefault("bf16", gpu and torch.cuda.is_bf16_supported())
        arguments.setdefault("gradient_checkpointing", gpu)
        arguments.setdefault("use_cpu", not gpu and not torch.backends.mps.is_available())
        arguments.setdefault("eval_strategy", "no" if self.data.validation is None else "epoch")
        try:
            config = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise SpecError(f"[trainer] {one_line(error)}") from None
        if config.n_gpu > 1:  # which TRL refuses
            raise TrainError(
                f"{config.n_gpu} GPUs are visible. Train on all of them: accelerate launch -m "
                "malt_data train …, or on one: CUDA_VISIBLE_DEVICES=0 malt-data train …"
            )
        self._note_passes(config)
        return config

    def _note_passes(self, config: Any) -> None:
        """Say so if a fixed number of steps goes over few rows more often than the paper does."""
        steps, rows = config.max_steps, len(self.data.train)
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        batch *= config.world_size
        if steps * batch > MOST_EPOCHS * rows:
            self.note(
                f"{self.data.config}: {steps} steps are {steps * batch / rows:.0f} passes over "
                f"{rows} rows. The paper has at most {MOST_EPOCHS} (§A.9); more can do harm."
            )

    def train(self, make_trainer: Callable[[], Any], on_progress: OnProgress) -> dict[str, Any]:
        """Create the trainer, run it and save the adapter; return the record."""
        with quiet_libraries(datasets=True):
            try:
                trainer = make_trainer()
            except ValueError as error:
                raise SpecError(f"[trainer] or [lora]: {one_line(error)}") from None
            write_plan(self.out, self.plan, self.data)
            run_training(trainer, self.out, on_progress)
        report = self.data.report.model_dump(mode="json") if self.data.report else None
        facts = {**self.plan, **self.fitted, "role": self.role, "report": report}
        return save(trainer, self.out, facts)


def prepare(
    role: str,
    stage: Stage,
    dataset: str,
    out: str | Path,
    *,
    model: str | None = None,
    recipe: Recipe | None = None,
    max_steps: int | None = None,
    other_model: bool = False,
    note: Callable[[str], None] = lambda _: None,
    **more: Any,
) -> Task:
    """Load the data and return the task.

    note: called with a line about rows that are left out. more: further entries of the plan. Raises
    TrainError, SpecError or HubError if data and model are unsuitable.
    """
    chosen = recipe or Recipe()
    with quiet_libraries(datasets=True):
        data = load_rows(dataset, role, stage)
    name = model_of(data, model, other_model)
    plan = plan_of(data, name, chosen, stage, max_steps=max_steps, **more)
    return Task(role, stage, data, name, chosen, plan, Path(out), note)


def write_plan(out: Path, plan: dict[str, Any], data: Data) -> None:
    """Write plan.json, so that a killed run can resume, and questions.txt."""
    write_text(out / PLAN, json.dumps(plan, indent=2) + "\n")
    # Include the questions that the initial adapter was trained on.
    ids = set(questions_of(plan["adapter"]) or ()) if plan.get("adapter") else set()
    for rows in filter(None, (data.train, data.validation)):
        if "question_id" in rows.column_names:
            ids.update(rows["question_id"])
    write_text(out / QUESTIONS, "".join(f"{name}\n" for name in sorted(ids)))


def run_training(trainer: Any, out: Path, on_progress: OnProgress) -> None:
    """Train to the end, resuming from the last complete checkpoint if there is one."""
    from transformers import PrinterCallback, TrainerCallback

    cost_logger = CostLogger()

    class Metrics(TrainerCallback):
        """Keeps metrics.jsonl in sync with the log history, which checkpoints contain."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            cost_logger.start(state.log_history)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_progress(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            cost_logger.update(state.log_history[-1])
            if state.is_world_process_zero:
                write_metrics(out, state.log_history)

    require_space(trainer, out)
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    trainer.add_callback(Metrics())
    with write_errors(out / CHECKPOINTS):
        trainer.train(resume_from_checkpoint=last_checkpoint(out / CHECKPOINTS))


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint, and remove incomplete ones."""
    paths = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(paths):
        with contextlib.suppress(OSError, ValueError):  # missing, or torn
            read_json(path / "trainer_state.json")  # the last file to be written
            return str(path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def require_space(trainer: Any, out: Path) -> None:
    """Raise TrainError if the disk has too little space for checkpoints and adapter."""
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    kept = (trainer.args.save_total_limit or 1) + 1
    needed = 4 * trainable * (2 + 3 * kept) + 2**24  # weights, and two moments of Adam
    free = shutil.disk_usage(out).free
    if free < needed:
        raise TrainError(
            f"{out} has {free >> 20} MiB free, but training needs {needed >> 20} MiB. Free some "
            "space, or choose another folder: --out NAME"
        )


def save(trainer: Any, out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write the adapter, its card and its record; return the record."""
    log = trainer.state.log_history
    record = record | {
        "steps": trainer.state.global_step,
        **costs(log),
        "metrics": last_values(log),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
    if trainer.is_world_process_zero():
        _write(trainer, out, record)
    trainer.accelerator.wait_for_everyone()  # before another process reads the adapter
    return record


def _write(trainer: Any, out: Path, record: dict[str, Any]) -> None:
    log = trainer.state.log_history
    model = trainer.accelerator.unwrap_model(trainer.model)
    with write_errors(out):
        # Only the adapter itself, without DPO's frozen copy `ref`.
        model.save_pretrained(out, selected_adapters=["default"])
        trainer.processing_class.save_pretrained(out)
    write_metrics(out, log)
    plot_curves(log, out / "curves.svg")
    write_text(out / "README.md", render_adapter_card(record))
    write_text(out / RECORD, json.dumps(record, indent=2) + "\n")
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def write_metrics(out: Path, history: list[dict[str, Any]]) -> None:
    """Write the logged steps, one JSON object per line."""
    write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in history))


def plan_of(data: Data, model: str, recipe: Recipe, stage: Stage, **more: Any) -> dict[str, Any]:
    """Return what identifies a training run; a run with a different plan is not resumed."""
    other = {"sft": "dpo", "dpo": "sft"}[stage]
    return {
        "data": data.pinned,
        "config": data.config,
        "rows": len(data.train),
        "export": data.state,
        "model": model,
        "settings": recipe.model_dump(exclude={other, "dpo_first", "baselines"}),
        "stage": stage,
        **more,
    }
