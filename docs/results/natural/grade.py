"""The reward of yes-or-no questions: whether the first word is the gold answer."""

import re
from typing import Any


def grade(completion: str, question: dict[str, Any]) -> bool:
    said = re.match(r"\W*(yes|no)\b", completion, re.IGNORECASE)
    return said is not None and said[1].lower() == question["gold"].lower()
