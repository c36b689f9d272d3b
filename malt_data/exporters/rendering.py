"""See what a chat template makes of the rows of an export, and of the thinking in them.

    rendering = Rendering(load_fit("Qwen/Qwen3-4B"))
    rendering.add(row, ["completion"])
    rendering.facts()["thinking"]    # {"rows": 1, "kept": 1, "empty_block": None}
    rendering.example                # "<|im_start|>assistant\\n<think>\\n3 + 4 is 7.\\n</think>…"

Templates differ: some write a message's `reasoning_content`, some drop it, and some write an empty
block where there is none.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from malt_data.engines.thinking import TAGS, split
from malt_data.exporters.fit import Fit
from malt_data.schemas.exports import REASONING

_EMPTY_BLOCK = re.compile(
    "|".join(rf"{re.escape(start)}\s*{re.escape(end)}" for start, end in TAGS.items())
)
_BEFORE = 40
_SHOWN = 480
"""Characters of an example: before the text, and in all."""


def parts_of(text: Any) -> tuple[str, str]:
    """Return (thinking, text without it) of a text that was exported with thinking, "" for none."""
    if isinstance(text, str):
        thought, said = split(text)
        return thought or "", said
    return text[0].get(REASONING) or "", text[0]["content"]


class Rendering:
    """What a chat template makes of the rows added so far.

    rows: those with thinking; kept: those of them whose thinking it writes. empty_block: whether it
    writes an empty one for a text without thinking; None if there is no such text. example: the end
    of the first row, if possible of one with thinking.
    """

    def __init__(self, fit: Fit) -> None:
        self._fit = fit
        self.rows = 0
        self.kept = 0
        self.empty_block: bool | None = None
        self.example: str | None = None

    def add(self, row: Mapping[str, Any], sides: Sequence[str]) -> bool:
        """Add a row with texts in the columns `sides`; return whether its thinking is dropped."""
        thoughts = {side: parts_of(row[side])[0].strip() for side in sides}
        carries = any(thoughts.values())
        wanted = self.example is None or (carries and not self.rows)
        dropped = refused = False
        for side, thought in thoughts.items():
            if not (thought or wanted or self.empty_block is None):
                continue  # rendering takes time
            rendered = self._fit.render(row, side)
            if rendered is None:
                refused = True
                continue
            if thought:
                dropped |= thought not in rendered[1]
            else:
                self.empty_block = bool(_EMPTY_BLOCK.search(rendered[1]))
            if wanted and (thought or not carries):
                self.example, wanted = _end(*rendered), False
        self.rows += carries
        self.kept += carries and not (dropped or refused)
        return dropped

    def facts(self) -> dict[str, Any]:
        """Return what was found, for the facts of a check."""
        return {
            "thinking": {"rows": self.rows, "kept": self.kept, "empty_block": self.empty_block},
            "example": self.example,
        }


def _end(prompt: str, whole: str) -> str:
    """Return the end of the prompt and the text behind it, shortened in the middle."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
    start = max(0, sum(1 for _ in same) - _BEFORE)
    shown = ("…" if start else "") + whole[start:]
    if len(shown) <= _SHOWN:
        return shown
    return f"{shown[: _SHOWN // 2]} … {shown[-_SHOWN // 2 :]}"
