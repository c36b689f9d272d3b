"""The base model, and the LoRA adapter on it: named, loaded, shaped."""

from typing import TYPE_CHECKING, Any

from malt_data.errors import SpecError, TrainError, one_line
from malt_data.trainers.data import Data
from malt_data.trainers.recipe import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def model_of(data: Data, model: str | None, other_model: bool) -> str:
    """Return the base model's name: the one that sampled the data, unless told otherwise.

    Raises TrainError where `model` is another one: DPO's pairs are then off its policy.
    """
    sampled = data.sampled_by
    if model is None and sampled is None:
        raise SpecError("Name the base model: --model NAME")
    if model is not None and sampled is not None and not other_model and model != sampled:
        raise TrainError(
            f"{data.source} was sampled by {sampled}, not by {model}. Train {sampled}, or pass "
            "--other-model if that is what you want."
        )
    return str(model or sampled)


def load_base(name: str, quantize: str | None) -> tuple[Any, "PreTrainedTokenizerBase"]:
    """Return (model, tokenizer): bfloat16 where the device has it, else float32."""
    try:
        import torch
        import transformers

        from malt_data.engines.embedded import resolve
    except ImportError as error:
        raise TrainError(
            f"Training needs torch, transformers, peft and trl ({error}): "
            "pip install 'malt-data[train]'"
        ) from None
    source = resolve(name, lambda _: None)
    half = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    more: dict[str, Any] = {}
    if quantize:
        four_bits: Any = transformers.BitsAndBytesConfig
        more["quantization_config"] = four_bits(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16 if half else torch.float32, **more
        )
    except (OSError, ValueError, ImportError) as error:
        raise TrainError(f"The base model {name} could not be loaded: {one_line(error)}") from None
    if not tokenizer.chat_template:
        raise TrainError(f"{name} has no chat template: take its instruction-tuned variant.")
    return model, tokenizer


def load_adapter(base: Any, adapter: str) -> Any:
    """Return `base` with a trainable adapter (a folder or a Hub repo) on it."""
    import peft

    try:
        return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainError(
            f"The adapter {adapter} could not be loaded on this base model: {one_line(error)}. "
            "Check its name, your login (hf auth login), and that it was trained on this model."
        ) from None


def make_lora(settings: Settings) -> Any:
    """Return PEFT's LoraConfig; raise SpecError for a key or value that it does not take."""
    import peft

    try:
        return peft.LoraConfig(**settings.lora_arguments())
    except (TypeError, ValueError) as error:
        raise SpecError(f"[lora] {one_line(error)}") from None
