"""Recreate the tables and figures of evaluations from the data in their folders, without a model.

python docs/results/tables.py docs/results/*/*/
"""

import sys
from pathlib import Path

from malt_data import open_results
from malt_data.evaluation.tables import accuracy_table
from malt_data.report.figures import write_figures
from malt_data.report.tables import markdown


def main(folders: list[Path]) -> None:
    for folder in folders:
        results = open_results(folder)
        against = next((name for name in ("malt+mv", "malt") if name in results.settings), None)
        (folder / "table.md").write_text(markdown(accuracy_table(results, against)) + "\n", "utf-8")
        if (folder / "figures").exists():
            write_figures(results, folder / "figures")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
