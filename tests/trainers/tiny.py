"""A tiny random model of the embedded one's architecture, with its real tokenizer and template."""

from pathlib import Path

import torch
import transformers

from malt_data.engines.embedded import EMBEDDED, resolve


def make_tiny(folder: Path) -> str:
    """Save the model into `folder` and return its name."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve(EMBEDDED, print))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    return str(folder)
