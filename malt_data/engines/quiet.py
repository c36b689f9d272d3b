"""Keep the progress bars and warnings of libraries off the terminal."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_libraries(*, datasets: bool = False) -> Iterator[None]:
    """Silence transformers and its GGUF reader, but keep the progress bars of Hub downloads.

    datasets: also silence that library, which is slow to import.
    """
    hub: Any = importlib.import_module("huggingface_hub.utils")
    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    logging: Any = importlib.import_module("transformers.utils.logging")
    rows: Any = importlib.import_module("datasets") if datasets else None

    def silent(*args: Any, **kwargs: Any) -> Any:
        return bar(*args, **{**kwargs, "disable": True})  # nested calls pass it too

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    downloads = not hub.are_progress_bars_disabled()
    preparing = datasets and not rows.are_progress_bars_disabled()
    bar = gguf.tqdm  # plain tqdm, which ignores the settings of transformers
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # disables the Hub's as well
    if downloads:
        hub.enable_progress_bars()
    if preparing:
        rows.disable_progress_bars()
    gguf.tqdm = silent
    try:
        yield
    finally:
        gguf.tqdm = bar
        if preparing:
            rows.enable_progress_bars()
        if bars:
            logging.enable_progress_bar()
        logging.set_verbosity(verbosity)
