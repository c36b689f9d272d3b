"""What does a training step take if the process keeps the memory that it frees, on a CPU?

    python benchmarks/freed_memory.py            # two minutes on two cores

Both ways train the LoRA adapter of the embedded model on the same random batch, 8 texts of 170
tokens, each in a process of its own, in turn; the quickest step of each counts. On two cores: see
docs/method.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

STEPS = 4


def steps(keep: bool) -> dict[str, float]:
    """Return the seconds of the quickest step after the first, and the peak memory in MiB."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from malt_data.engines.embedded import EMBEDDED, resolve
    from malt_data.trainers.training import keep_freed_memory

    if keep:
        keep_freed_memory()
    base = AutoModelForCausalLM.from_pretrained(resolve(EMBEDDED), dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
    tokens = torch.randint(0, 49_000, (8, 170), generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        logits = model(tokens).logits[:, :-1].flatten(0, 1)
        loss: Any = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        loss.backward()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(min(seconds[1:]), 3), "peak_mib": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--way", choices=["keep", "return"])
    options = parser.parse_args()
    if options.way:
        print(json.dumps(steps(options.way == "keep")))
        return
    found: dict[str, list[dict[str, float]]] = {"return": [], "keep": []}
    for _ in range(options.repeats):
        for way, runs in found.items():
            command = [sys.executable, __file__, "--way", way]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs.append(json.loads(run.stdout))
    best = {way: min(runs, key=lambda run: run["seconds"]) for way, runs in found.items()}
    for way, facts in best.items():
        print(f"{way:7} {facts['seconds']:.2f} s a step, {facts['peak_mib']} MiB")
    print(f"ratio   {best['keep']['seconds'] / best['return']['seconds']:.2f}")


if __name__ == "__main__":
    main()
