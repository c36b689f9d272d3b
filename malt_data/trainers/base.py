"""Load the base model and the LoRA adapter on it."""

from typing import TYPE_CHECKING, Any

from malt_data.engines.generate import load_errors
from malt_data.errors import SpecError, TrainError, one_line
from malt_data.trainers.data import Data
from malt_data.trainers.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def model_of(data: Data, model: str | None, other_model: bool) -> str:
    """Return the name of the base model; by default, the model that sampled the data.

    Raises TrainError if `model` is another one, as the data would be off-policy, unless
    `other_model` is set.
    """
    sampled = data.sampled_by
    if model is None and sampled is None:
        raise SpecError("The data does not name a base model. Pass --model NAME")
    if model is not None and sampled is not None and not other_model and model != sampled:
        raise TrainError(
            f"{data.source} was sampled by {sampled}, not by {model}. Train {sampled}, or pass "
            f"--other-model to train {model} anyway."
        )
    return str(model or sampled)


def load_base(name: str, quantize: str | None) -> tuple[Any, "PreTrainedTokenizerBase"]:
    """Return (model, tokenizer), in bfloat16 if the GPU supports it, else in float32."""
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
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    extra: dict[str, Any] = {}
    if quantize:
        quantization: Any = transformers.BitsAndBytesConfig
        extra["quantization_config"] = quantization(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16 if bfloat16 else torch.float32, **extra
        )
    except load_errors() as error:
        raise TrainError(f"The base model {name} could not be loaded: {one_line(error)}") from None
    return model, tokenizer


def load_adapter(base: Any, adapter: str) -> Any:
    """Load a trainable adapter, a folder or a Hub repo, onto `base`."""
    import peft

    try:
        return peft.PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except load_errors() as error:
        raise TrainError(
            f"The adapter {adapter} could not be loaded onto the base model: {one_line(error)}. "
            "Check its name, your login (hf auth login), and that it was trained on this model."
        ) from None


def make_lora(recipe: Recipe) -> Any:
    """Return PEFT's LoraConfig; raise SpecError for an invalid key or value."""
    import peft

    try:
        return peft.LoraConfig(**recipe.lora_arguments())
    except (TypeError, ValueError) as error:
        raise SpecError(f"[lora] {one_line(error)}") from None
