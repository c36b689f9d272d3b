"""Creating and extending a forest."""

from pathlib import Path

import pytest
from synthetic import make_forest

from malt_data.forests import create as module
from malt_data.forests.create import create_forest
from malt_data.forests.forest import open_forest
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import question_id


@pytest.mark.parametrize("step", ["write_text", "_write_questions"])
def test_an_interrupted_extension_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    forest = make_forest(tmp_path / "f", trees=2, limit=2)
    spec = forest.manifest.spec.model_copy(update={"limit": 3})
    new_id = question_id("One more?", None)
    new = Question(new_id, "made", "train", "One more?", None, "1", "numeric", None, "{}")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            create_forest(forest.folder, spec, [new], {})
    create_forest(forest.folder, spec, [new], {})
    extended = open_forest(forest.folder)
    assert extended.manifest.spec.limit == 3
    assert len(extended.questions().collect()) == 3
