"""The SQL that fills in the prompts of the rows, from the templates with which a role was sampled.

A prompt consists of the question and of texts above a node, never of what was thought before them.
"""

from collections.abc import Sequence

from malt_data.prompts.templates import pieces, templates
from malt_data.schemas.spec import BuildSpec


def joins(depth: int) -> str:
    """Return the joins from the node `turn_<depth>` to every node above it."""
    return " ".join(
        f"JOIN keyed AS turn_{above} ON turn_{above}.key = turn_{above + 1}.parent"
        for above in range(depth - 1, 0, -1)
    )


def prompts_query(
    spec: BuildSpec, depths: Sequence[int], kinds: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Return the SQL of the prompts of the turns at `depths`, and the literals to bind to it.

    A template becomes `concat(literal, column, literal, …)`, so placeholder names inside the texts
    themselves are not replaced.
    """
    literals: dict[str, str] = {}
    selects = []
    for depth in depths:
        prompt = _prompt_expression(spec, depth, kinds, literals)
        if depth == 1:
            parents = "(SELECT DISTINCT root AS key, question_id FROM keyed WHERE depth = 1)"
            nodes, key, where = f"{parents} AS parent", "parent", ""
        else:
            key = f"turn_{depth - 1}"
            nodes, where = f"keyed AS {key} {joins(depth - 1)}", f"{key}.depth = {depth - 1} AND"
        selects.append(
            f"SELECT {key}.key, {prompt} AS prompt FROM {nodes} "
            f"JOIN questions ON questions.question_id = {key}.question_id "
            f"WHERE {where} {key}.key IN (SELECT prompt_key FROM ledger WHERE reason IS NULL)"
        )
    return f"CREATE OR REPLACE TEMP TABLE prompts AS {' UNION ALL '.join(selects)}", literals


def _prompt_expression(
    spec: BuildSpec, depth: int, kinds: Sequence[str], literals: dict[str, str]
) -> str:
    """Return a prompt as a CASE over the kinds; add its literals to `literals`."""

    def bind(text: str) -> str:
        name = f"text_{len(literals)}"
        literals[name] = text
        return f"${name}"

    def concat(template: str) -> str:
        terms = []
        for literal, name in pieces(template, spec.pipeline):
            terms.append(bind(literal))
            if name in ("question", "choices"):
                terms.append(f"questions.{name}")
            elif name and (source := spec.pipeline.source(name, depth - 1)) is not None:
                terms.append(f"turn_{source + 1}.text")
        return f"concat({', '.join(terms)})"

    cases = []
    for kind in kinds:
        spoken = [
            (speaker, concat(template))
            for speaker, template in templates(spec.prompts, kind, spec.pipeline.turns[depth - 1])
        ]
        if spec.chat_template.plain:
            prompt = f"concat_ws({', '.join(['chr(10) || chr(10)', *(t for _, t in spoken)])})"
        else:
            messages = (f"{{'role': '{who}', 'content': {text}}}" for who, text in spoken)
            prompt = f"[{', '.join(messages)}]"
        cases.append(f"WHEN {bind(kind)} THEN {prompt}")
    return f"CASE questions.kind {' '.join(cases)} END" if cases else "NULL"  # no questions
