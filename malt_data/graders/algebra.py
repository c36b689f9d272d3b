"""Computer algebra: math-verify, with a cost guard, and a numeric check of positive results.

math-verify has known errors: its tolerance is absolute, so that it accepts 1/2^99 for 1/2^98. It
may also hang (`(a+b+c+d+e)^{60}`), so it only runs in a worker of `pool.py`.
"""

import logging
import re
from typing import Any

MAX_CHARS = 500
MAX_NESTING = 30

_COSTLY = re.compile(
    r"\^\{*\(*-?\d{4,}|\d\}*\)*\^\{*\(*\d+\}*\)*\^|\d{4,}\)*!|\^[^!]{0,12}\)!|!!|\\binom\{\d{5,}"
)


def too_costly(text: str) -> bool:
    """Return whether `text` could hang computer algebra: towers, huge powers and factorials."""
    depth = deepest = 0
    for character in text[: MAX_CHARS + 1]:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    return (
        len(text) > MAX_CHARS
        or deepest > MAX_NESTING
        or _COSTLY.search(text.replace(" ", "")) is not None
    )


_ALGEBRA_ERRORS: tuple[type[Exception], ...] = (ArithmeticError, AttributeError, LookupError)
_ALGEBRA_ERRORS += (RuntimeError, TypeError, ValueError)


def by_algebra(answer: str, gold: str) -> bool:
    """Compare with math-verify, both sides boxed and without its own timeout."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if too_costly(answer) or too_costly(gold):
        return False
    normal = NormalizationConfig(  # `units` would read the t of `12 + 10t` as tons
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all"
    )
    config = [math_verify.LatexExtractionConfig(True, 0, normal)]
    try:
        answer_parsed, gold_parsed = (
            math_verify.parse(f"\\boxed{{{text}}}", config, parsing_timeout=None)
            for text in (answer, gold)
        )
        if not answer_parsed or not gold_parsed:
            return False
        equal = math_verify.verify(gold_parsed, answer_parsed, timeout_seconds=None)
    except _ALGEBRA_ERRORS:
        return False
    return bool(equal) and not _differ_numerically(answer_parsed[0], gold_parsed[0])


def _differ_numerically(answer: Any, gold: Any) -> bool:
    """Return whether two expressions differ at a sample point, by a relative tolerance."""
    import sympy  # type: ignore[import-untyped]

    if not isinstance(answer, sympy.Expr) or not isinstance(gold, sympy.Expr):
        return False
    symbols = sorted(answer.free_symbols | gold.free_symbols, key=str)
    point = {symbol: sympy.Rational(7 + 4 * n, 5 + 2 * n) for n, symbol in enumerate(symbols)}
    try:
        a, b = (complex(side.subs(point).evalf(30)) for side in (answer, gold))
    except _ALGEBRA_ERRORS:
        return False
    return abs(a - b) > 1e-7 * max(abs(a), abs(b))
