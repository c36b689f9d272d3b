"""The progress bars of libraries: silenced, also when nested, and restored."""

import importlib
from typing import Any

import pytest

from malt_data.engines.quiet import quiet_libraries

pytestmark = pytest.mark.model


def test_nested_calls_silence_and_restore(capsys: pytest.CaptureFixture[str]) -> None:
    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    before = gguf.tqdm
    with quiet_libraries(), quiet_libraries():
        assert list(gguf.tqdm(range(2), desc="Converting")) == [0, 1]
    assert gguf.tqdm is before
    assert "Converting" not in capsys.readouterr().err
