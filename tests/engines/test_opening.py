"""What the options of an engine mean for its replicas."""

from typing import Any

import pytest

from malt_data.engines.opening import _num_gpus, _own_options
from malt_data.errors import SpecError
from malt_data.schemas.spec import BuildSpec


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ({}, None),
        ({"max_model_len": 4096}, None),
        ({"tensor_parallel_size": 1}, None),
        ({"tensor_parallel_size": 4}, 4.0),
        ({"pipeline_parallel_size": 2}, 2.0),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2}, 8.0),
        ({"tensor_parallel_size": 4, "num_gpus": 2}, 2.0),
        ({"num_gpus": 0.5}, 0.5),
        ({"num_gpus": 0}, 0.0),
    ],
)
def test_a_replica_takes_the_gpus_of_its_parallelism(
    options: dict[str, Any], gpus: float | None
) -> None:
    assert _num_gpus(options) == gpus


@pytest.mark.parametrize(
    "options",
    [
        {"num_gpus": "one"},
        {"num_gpus": True},
        {"num_gpus": -1},
        {"num_gpus": float("nan")},
        {"tensor_parallel_size": "4"},
    ],
)
def test_a_number_of_gpus_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="num_gpus"):
        _num_gpus(options)


def test_an_engine_does_not_see_the_gpus_of_its_replicas() -> None:
    spec = BuildSpec(engine_options={"num_gpus": 2, "tensor_parallel_size": 2})
    assert _own_options(spec) == {"tensor_parallel_size": 2}
