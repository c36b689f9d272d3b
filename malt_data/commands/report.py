"""`report`: a forest or an evaluation as one HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from malt_data.commands.arguments import open_for_command
from malt_data.commands.options import json_option
from malt_data.commands.output import note, print_json, say

if TYPE_CHECKING:
    from malt_data.evaluation.results import Results
    from malt_data.forests.forest import Forest

_MEGABYTE = 1_000_000


@click.command()
@click.argument("source", required=False, metavar="[FOREST|RESULTS]")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default="report.html",
    show_default=True, help="File to write.",
)  # fmt: skip
@click.option("--title", help="Heading of the page.  [default: the folder's name]")
@click.option(
    "--max-mb", type=click.FloatRange(0.1, 500), default=24.0, show_default=True,
    help="Megabytes of texts in the page; what is above is left out, and the page says so.",
)  # fmt: skip
@click.option("--against", help="Setting of the results to compare with.  [default: the last]")
@click.option("--push", "repo", metavar="USER/NAME", help="Also push it to a static Space.")
@click.option("--private", is_flag=True, help="Create the Space as a private one.")
@json_option
def report(
    source: str | None, out: Path, title: str | None, max_mb: float, against: str | None,
    repo: str | None, private: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show a forest, or the results of an evaluation, as one HTML page.

    The page is one file without network: open it from disk, send it, or push
    it to a static Space. It has the numbers of stats as tables and charts,
    and every tree to search, filter and read.

    \b
    malt-data report
    malt-data report my-forest --out my-forest.html
    malt-data report results --against malt+mv --out results.html
    malt-data report --push me/my-report
    """
    from malt_data.commands.progress import Progress
    from malt_data.publish.space import push_page
    from malt_data.report.report import write_report
    from malt_data.storage.hub import require_repo

    if repo is not None:
        require_repo(repo)  # before minutes of work
    opened = _open(source)
    with Progress("report") as progress:
        made = write_report(
            opened,
            out,
            title=title,
            budget=int(max_mb * _MEGABYTE),
            against=against,
            on_progress=progress.update,
        )
    facts: dict[str, Any] = {
        "page": str(out), "bytes": made.size, "shown": made.shown, "of": made.total
    }  # fmt: skip
    what = "trees" if made.kind == "forest" else "questions"
    if not as_json:
        say(f"{out}: {made.shown} of {made.total} {what} to read, {made.size / _MEGABYTE:.1f} MB.")
        if made.shown < made.total:
            note(
                f"The numbers are of all {what}. To keep the texts of more: --max-mb {2 * max_mb:g}"
            )
    if repo is not None:
        facts["space"] = push_page(out, repo, title=made.title, private=private)
    if as_json:
        print_json(facts)
    elif repo is not None:
        say(f"Pushed: {facts['space']}")


def _open(source: str | None) -> "Forest | Results":
    from malt_data.evaluation.results import open_results
    from malt_data.schemas import layout

    if source is not None and (Path(source) / layout.RESULTS).exists():
        return open_results(source)
    return open_for_command(source)
