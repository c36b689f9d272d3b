"""Computer algebra: math-verify, kept from what would hang it, its yes checked at a sample point.

math-verify errs in known ways: its tolerance is absolute, so that it takes 1/2^99 for 1/2^98. It
may also hang (`(a+b+c+d+e)^{60}`), so only a worker of `pool.py` comes here.
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
    """Say whether computer algebra must not see `text`: towers, huge powers and factorials."""
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
    """Ask math-verify, both sides boxed and without its own clock, and check its yes."""
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
        ours, theirs = (
            math_verify.parse(f"\\boxed{{{text}}}", config, parsing_timeout=None)
            for text in (answer, gold)
        )
        if not ours or not theirs:
            return False
        yes = math_verify.verify(theirs, ours, timeout_seconds=None)
    except _ALGEBRA_ERRORS:
        return False
    return bool(yes) and not _differ_somewhere(ours[0], theirs[0])


def _differ_somewhere(ours: Any, theirs: Any) -> bool:
    """Say whether two expressions differ in relative terms where math-verify rounds absolutely."""
    import sympy  # type: ignore[import-untyped]

    if not isinstance(ours, sympy.Expr) or not isinstance(theirs, sympy.Expr):
        return False
    symbols = sorted(ours.free_symbols | theirs.free_symbols, key=str)
    point = {symbol: sympy.Rational(7 + 4 * n, 5 + 2 * n) for n, symbol in enumerate(symbols)}
    try:
        a, b = (complex(side.subs(point).evalf(30)) for side in (ours, theirs))
    except _ALGEBRA_ERRORS:
        return False
    return abs(a - b) > 1e-7 * max(abs(a), abs(b))
