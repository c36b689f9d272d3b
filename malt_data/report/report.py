"""Write a forest or an evaluation as one HTML page.

report = write_report(open_forest("forest"), "report.html")
report.shown, report.total, report.size   # trees to read, all trees, bytes
"""

from dataclasses import dataclass
from pathlib import Path

from malt_data.errors import SpecError
from malt_data.evaluation.results import Results
from malt_data.forests.forest import Forest
from malt_data.report.forest_page import forest_page
from malt_data.report.page import BUDGET, OnProgress, is_page, write_page
from malt_data.report.results_page import results_page


@dataclass(frozen=True)
class Report:
    """A page that was written. shown: trees or questions to read in it, of `total`. size: bytes."""

    path: Path
    kind: str
    title: str
    shown: int
    total: int
    size: int


def write_report(
    source: Forest | Results,
    out: str | Path = "report.html",
    *,
    title: str | None = None,
    budget: int = BUDGET,
    against: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Report:
    """Write the page of `source` to `out`, whole or not at all.

    title: its heading, by default the folder's name. budget: bytes of texts; what is above is left
    out, and the page says so. against: the setting of results that the others are compared with, by
    default the last. on_progress: called with the trees or questions read, and all of them.
    Raises SpecError if `out` is some other file, ForestError or EvalError if there is nothing to
    show, StorageError if the disk is full.
    """
    out = Path(out)
    if out.is_dir():
        raise SpecError(f"{out} is a folder. Name a file: --out report.html")
    if out.exists() and not is_page(out):
        raise SpecError(f"{out} is not a report and is kept. Name a new file: --out NAME.html")
    if isinstance(source, Results):
        page, shown = results_page(source, budget, title, against, on_progress)
    elif against is not None:
        raise SpecError("A forest has no settings to compare: leave out --against.")
    else:
        with source.reading():
            page, shown = forest_page(source, budget, title, on_progress)
    return Report(out, page.kind, page.title, shown, page.total, write_page(out, page))
