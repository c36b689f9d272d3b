"""Write one self-contained HTML page: the script and style of `bundle/`, and the data they show.

    write_page(Path("report.html"), Page("forest", "gsm8k", facts, [index, *trees], 100))

The data lies in the page as blocks of JSON, compressed with zstd, in base64. No text of a model can
break out of one, whatever it contains, and the script decodes a block when it is needed. The page's
own policy lets it load nothing: it works from disk, and nothing leaves it.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

from malt_data import __version__
from malt_data.storage.files import atomic_write, recover

OnProgress = Callable[[int, int], None]
"""Called with what is done and what is to do."""
BUDGET = 24_000_000
"""Bytes of texts in a page, by default."""
_LEVEL = 12  # 19 takes ten times as long for some 5 % less
_OURS = b'<meta name="generator" content="malt-data">'
_BUNDLE = resources.files(__package__) / "bundle"


@dataclass(frozen=True)
class Page:
    """What a page shows.

    kind: forest or results, which views there are. facts: what the page needs at once. blocks:
    more, each as `pack` returns it, decoded when it is looked at. total: all trees or questions,
    also those whose texts are left out.
    """

    kind: str
    title: str
    facts: dict[str, Any]
    blocks: Sequence[bytes]
    total: int


def is_page(path: Path) -> bool:
    """Return whether a path is a page of ours; a pipe or a device is none."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _OURS in file.read(2_000)


def pack(value: Any) -> bytes:
    """Return JSON, compressed with zstd, in base64."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    packed = pa.Codec("zstd", compression_level=_LEVEL).compress(text.encode("ascii"), asbytes=True)
    return base64.b64encode(packed)


def fill(
    groups: Iterable[list[Any]], budget: int, on_progress: Callable[[int], None]
) -> tuple[list[bytes], int]:
    """Pack groups as long as they fit the budget, in bytes, and of the last what does.

    Returns the blocks, and how many items they have; on_progress is called with that.
    """
    blocks: list[bytes] = []
    items, left = 0, budget
    for group in groups:
        kept = group
        while kept and len(block := pack(kept)) > left:
            kept = kept[: len(kept) // 2]
        if kept:
            blocks.append(block)
            items, left = items + len(kept), left - len(block)
            on_progress(items)
        if len(kept) < len(group):
            break
    return blocks, items


def write_page(path: Path, page: Page) -> int:
    """Write the page, whole or not at all; return its size in bytes."""
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _read("page.html.j2")
    )
    script, style = _read("page.js"), _read("page.css")
    facts = {"kind": page.kind, "title": page.title, "malt_data": __version__, **page.facts}
    html = template.stream(
        title=page.title,
        script=script,
        script_hash=_hash(script),
        style=style,
        notices=base64.b64encode(_read("NOTICES.txt").encode()).decode(),
        facts=pack(facts).decode(),
        blocks=(block.decode() for block in page.blocks),
    )
    recover(path.parent, path.name)  # a page that was being written by a killed process
    with atomic_write(path) as temporary:
        html.dump(str(temporary), encoding="utf-8")
        return temporary.stat().st_size


def _read(name: str) -> str:
    return (_BUNDLE / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return what the policy calls a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
