"""Take the harm out of reasoning-gym's scorers, which run `eval` on a completion.

Several of them read lists by `eval(answer)` and formulas by sympy's `parse_expr`, which evaluates
the Python that it makes of a text: `__import__('os').system(…)` as an answer would be run. Here
both only take what an answer may be made of. `graders/gym.py` calls this in its worker, before
anything is scored.

    >>> literal("[1, 2]"), literal("(0x3 + 1) * 2")
    ([1, 2], 8)
    >>> literal("open('file')")
    Traceback (most recent call last):
    ValueError: not a literal
"""

import ast
import importlib
import re
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

_ARITHMETIC = re.compile(r"(?:0[xX][0-9a-fA-F]++|[0-9.]++|[-+*/%()&|^~<>\s])*+")
_FUNCTIONS = frozenset(
    ("Symbol", "Integer", "Float", "Rational", "Abs", "exp", "log", "ln", "sqrt", "sin", "cos",
     "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "sinh", "cosh", "tanh", "asinh",
     "acosh", "atanh", "erf", "factorial")
)  # fmt: skip
_CONSTANTS = frozenset(("pi", "E", "I", "oo"))
_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Call, ast.Name, ast.Load,
    ast.Constant,
)  # fmt: skip
_NUMBER = re.compile(r"[0-9.eE+-]{1,100}")


def literal(text: str, *_: Any) -> Any:
    """Return the value of a literal or of arithmetic; raise ValueError for anything else."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if not _ARITHMETIC.fullmatch(text):
            raise ValueError("not a literal") from None
    return eval(text, {"__builtins__": {}})  # numbers and operators only


def refuse(*_: Any) -> NoReturn:
    """Stand in for `exec`."""
    raise ValueError("no code is run")


def formula(code: str, local_dict: Mapping[str, Any], global_dict: Mapping[str, Any]) -> Any:
    """Evaluate the Python that sympy made of a formula, if it is one; else raise ValueError."""
    for node in ast.walk(ast.parse(code.strip(), mode="eval")):
        if not isinstance(node, _NODES):
            raise ValueError(f"not a formula: {type(node).__name__}")
        if isinstance(node, ast.Name):
            known = node.id in _FUNCTIONS | _CONSTANTS or node.id in local_dict
        elif isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name) and not node.keywords
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            known = node.value.isidentifier() or _NUMBER.fullmatch(node.value) is not None
        else:
            known = True
        if not known:
            raise ValueError("not a formula")
    names = {name: global_dict[name] for name in _FUNCTIONS | _CONSTANTS if name in global_dict}
    return eval(code, {"__builtins__": {}, **names}, dict(local_dict))


def disarm() -> None:
    """Replace `eval` and `exec` in every module of reasoning-gym, and in sympy's parser."""
    sympy_parser = importlib.import_module("sympy.parsing.sympy_parser")
    vars(sympy_parser)["eval_expr"] = formula
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym":
            vars(module).update(eval=literal, exec=refuse)
