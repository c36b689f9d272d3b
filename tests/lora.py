"""A LoRA adapter for the embedded model that was never trained."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_adapter(folder: Path, seed: int = 0) -> str:
    """Write an adapter with random weights that change every answer; return its name."""
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    noise = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(30):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora"
        for part in "AB":
            weights[f"{name}_{part}.weight"] = torch.randn(
                (8, 576) if part == "A" else (576, 8), generator=noise
            )
    save_file(weights, folder / "adapter_model.safetensors")
    return str(folder)
