"""Settings: what each command takes, and that every error is one of ours."""

import pytest
from pydantic import BaseModel

import malt_data
from malt_data.errors import SpecError
from malt_data.schemas.model import Model
from malt_data.schemas.spec import BuildSpec, EvalSpec, Labels

MODELS = sorted(
    (
        getattr(malt_data, name)
        for name in dir(malt_data)
        if isinstance(getattr(malt_data, name), type)
        and issubclass(getattr(malt_data, name), BaseModel)
    ),
    key=lambda model: str(model.__name__),
)


@pytest.mark.parametrize("model", MODELS)
def test_no_error_of_pydantic_reaches_the_caller(model: type[Model]) -> None:
    with pytest.raises(SpecError, match="unknown setting 'nonsense'"):
        model(**{"nonsense": 1})
    with pytest.raises(SpecError, match="unknown setting 'nonsense'"):
        model.model_validate({"nonsense": 1})


@pytest.mark.parametrize("name", ["threshold", "pooling", "n", "shard", "adapters", "seed"])
def test_an_evaluation_takes_no_settings_of_a_build(name: str) -> None:
    assert name in BuildSpec.model_fields
    with pytest.raises(SpecError, match=f"unknown setting '{name}'"):
        EvalSpec(**{name: None})


def test_what_is_stored_of_a_build_keeps_its_groups_in_order() -> None:
    assert [*BuildSpec.model_fields] == [
        *("questions", "split", "limit", "fields", "kind"),
        *("pipeline", "shard", "n", "n_by_role", "adapters", "seed"),
        *("engine", "model", "base_url", "concurrency", "replicas", "ray", "engine_options"),
        *("temperature", "max_tokens", "sampling", "chat_template", "prompts"),
        *("grader", "threshold", "pooling", "grader_timeout"),
        "adaptive",
    ]


def test_adaptive_may_be_a_table_of_any_size_or_false() -> None:
    for rule in (True, {}, {"most": 8}):
        assert BuildSpec(adaptive=rule).chain.branching == (2, 2, 2)
    assert BuildSpec(adaptive=False) == BuildSpec()


def test_labels_are_changed_one_by_one_and_checked() -> None:
    assert Labels(threshold=0.7).updated(pooling="local") == Labels(threshold=0.7, pooling="local")
    with pytest.raises(SpecError, match=r"threshold: .*\(got 2\)"):
        Labels().updated(threshold=2)


def test_a_setting_that_is_assigned_to_is_refused_with_the_way_out() -> None:
    with pytest.raises(SpecError, match=r"Labels is immutable: use updated\(threshold=…\)"):
        setattr(Labels(), "threshold", 0.7)  # noqa: B010


def test_an_argument_called_self_is_an_unknown_setting() -> None:
    with pytest.raises(SpecError, match="unknown setting 'self'"):
        Labels(**{"self": 1})


def test_a_misspelt_setting_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(SpecError, match=r"'temprature', did you mean 'temperature'\?"):
        BuildSpec(**{"temprature": 0.3})
