"""Ask a team one question and play one setting on it.

answer, votes = ask("What is 12 + 30?", spec, find_settings(["malt+mv"])[0], team.by_set())
"""

from collections.abc import Callable, Sequence
from functools import partial

from malt_data.engines import Engine
from malt_data.engines.loop import run_sync
from malt_data.engines.opening import open_engine
from malt_data.errors import EvalError
from malt_data.evaluation.play import Memo, Turn, play
from malt_data.evaluation.settings import Setting, require_adapters, require_playable
from malt_data.evaluation.vote import ballots, majority
from malt_data.graders import KINDS, TEXT, Grader, is_own, kind_of, require_grader
from malt_data.graders.choice import MAX_CHOICES
from malt_data.prompts.resolve import resolve_sampling
from malt_data.prompts.templates import require_prompts
from malt_data.schemas.forest import Question
from malt_data.schemas.ids import question_id
from malt_data.schemas.spec import EvalSpec
from malt_data.schemas.team import AdapterSets


def ask(
    text: str,
    spec: EvalSpec,
    setting: Setting,
    team: AdapterSets,
    *,
    choices: Sequence[str] = (),
    seed: int = 0,
    on_turn: Callable[[Turn], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[str | None, list[str | None]]:
    """Answer one question; return (answer after the vote, answer of each pass).

    choices: the texts of A, B, …; the answer is then a letter. Without choices, the kind of the
    question is the spec's grader, else its kind (that of the team's data), else numeric. A function
    of somebody's own is not run: votes are counted by the answers' text. on_turn:
    called with each turn when it is finished. Raises EvalError if the team lacks the setting's
    adapters, SpecError if the pipeline cannot play it, EngineError if a request fails.
    """
    question = _question(text, choices, spec)
    spec = resolve_sampling(spec)
    require_playable([setting], spec.pipeline, spec.prompts)
    require_prompts(spec.prompts, spec.pipeline, {question.kind})
    require_adapters([setting], spec.pipeline, team)

    async def play_once() -> list[Turn]:
        engine = await open_for(spec, [setting], team, note)
        memo = Memo(engine, spec)
        try:
            return await play(question, setting, seed, memo, team, on_turn)
        finally:
            await memo.close()
            await engine.close()

    turns = ((t.pass_index, t.turn, t.role, t.answer) for t in run_sync(play_once()))
    votes = ballots(turns, spec.pipeline.judges)
    with Grader() as grader:
        kind = TEXT if is_own(spec.grader) else question.kind
        return majority(votes, partial(_same, question, kind, grader)), votes


def _question(text: str, choices: Sequence[str], spec: EvalSpec) -> Question:
    """Return the question to ask; raise EvalError if it is not valid."""
    try:
        "".join([text, *choices]).encode()
    except UnicodeEncodeError:
        raise EvalError("The question is not valid UTF-8.") from None
    shown = tuple(choice.strip() for choice in choices) or None
    if shown and (not 2 <= len(shown) <= MAX_CHOICES or len(set(shown)) < len(shown)):
        raise EvalError(
            f"A multiple-choice question needs 2 to {MAX_CHOICES} different choices, not "
            f"{len(shown)}: pass --choice TEXT once for each."
        )
    require_grader(spec.grader)
    free = spec.grader if spec.grader in KINDS else spec.kind or "numeric"
    kind = "choice" if shown else "numeric" if kind_of(free).lettered else free
    name = question_id(text, shown)
    return Question(name, "asked", "", text, shown, "", kind, None, "{}")


def _same(question: Question, kind: str, grader: Grader, a: str, b: str) -> bool:
    return a == b or grader.grade(a, b, kind, question.choices) == "right"


async def open_for(
    spec: EvalSpec, settings: Sequence[Setting], team: AdapterSets, note: Callable[[str], None]
) -> Engine:
    """Open the engine of `spec` with the adapters of `team` that the settings use."""
    used = {
        name
        for setting in settings
        for role in spec.pipeline.chain(setting.turns).roles
        if (name := setting.adapter(role, team)) is not None
    }
    return await open_engine(spec, sorted(used), note)
