"""Starting and extending a forest."""

from pathlib import Path

import pytest
from synthetic import make_forest

from malt_data.forests import create as module
from malt_data.forests.create import create_forest
from malt_data.forests.forest import open_forest
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import question_id


@pytest.mark.parametrize("step", ["write_text", "_write_questions"])
def test_an_extension_that_was_killed_is_made_whole_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    forest = make_forest(tmp_path / "f", trees=2, limit=2)
    spec = forest.manifest.spec.model_copy(update={"limit": 3})
    name = question_id("One more?", None)
    more = Question(name, "made", "train", "One more?", None, "1", "numeric", None, "{}")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, killed)
        with pytest.raises(KeyboardInterrupt):
            create_forest(forest.folder, spec, [more], {})
    create_forest(forest.folder, spec, [more], {})
    whole = open_forest(forest.folder)
    assert whole.manifest.spec.limit == 3
    assert len(whole.questions().collect()) == 3
