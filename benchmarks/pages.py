"""How fast is the page of a big forest in a browser?

    PYTHONPATH=tests python benchmarks/pages.py                  # 100,000 nodes
    PYTHONPATH=tests python benchmarks/pages.py --nodes 20000 --json

Writes the page of a synthetic forest and opens it from disk in headless Chromium. n = 3; texts of
some 600 characters, which share sentences within a tree so that they deflate to a third. Seconds
are from the start of loading to what is seen; milliseconds from a click or key to the list that it
leaves, the median of `--repeats`.
"""

import argparse
import json
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from report.browser import chromium
from synthetic_forest import synthetic_forest

from malt_data.report.report import write_report

_SENTENCES = 200
_SEEN = "(selector) => !!document.querySelector(selector)"
_CLICK = """async ([name, count]) => {
  const buttons = [...document.querySelectorAll(".filters button")];
  const button = buttons.find((one) => one.textContent.startsWith(name));
  const status = document.querySelector("[role=status]");
  const before = status.textContent;
  const start = performance.now();
  button.click();
  while (status.textContent === before && performance.now() - start < 5000)
    await new Promise((done) => requestAnimationFrame(done));
  return performance.now() - start;
}"""
_SEARCH = """async (words) => {
  const input = document.querySelector("input[type=search]");
  const status = document.querySelector("[role=status]");
  const before = status.textContent;
  const start = performance.now();
  input.value = words;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  while (status.textContent === before && performance.now() - start < 5000)
    await new Promise((done) => requestAnimationFrame(done));
  return performance.now() - start;
}"""


def seconds_until(page: Page, address: str, selector: str) -> float:
    page.goto("about:blank")
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(_SEEN, arg=selector, polling=10)
    return time.perf_counter() - started


def measure(page: Page, address: str, tree: str, repeats: int) -> dict[str, float]:
    first = [seconds_until(page, address, ".tiles") for _ in range(repeats)]
    listed = [seconds_until(page, f"{address}#/trees", ".items a") for _ in range(repeats)]
    opened = [seconds_until(page, f"{address}#/trees/{tree}", ".turn pre") for _ in range(repeats)]
    clicks, searches = [], []
    page.goto(f"{address}#/trees")
    page.wait_for_function(_SEEN, arg=".items a")
    for number in range(repeats):
        clicks += [page.evaluate(_CLICK, ["all right", 0]), page.evaluate(_CLICK, ["all", 0])]
        searches += [page.evaluate(_SEARCH, f"twice {number}"), page.evaluate(_SEARCH, "")]
    return {
        "first view, s": statistics.median(first),
        "list of trees, s": statistics.median(listed),
        "a tree by its link, s": statistics.median(opened),
        "filter, ms": statistics.median(clicks),
        "search, ms": statistics.median(searches),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        forest = synthetic_forest(
            Path(folder) / "forest", options.nodes, sentences_a_tree=_SENTENCES
        )
        started = time.perf_counter()
        report = write_report(forest, Path(folder) / "report.html")
        texts = "\n".join(forest.nodes().select("text").head(5_000).collect()["text"]).encode()
        facts: dict[str, Any] = {
            "nodes": options.nodes,
            "texts deflate by": len(texts) / len(zlib.compress(texts, 9)),
            "trees": report.total,
            "shown": report.shown,
            "MB": report.size / 1e6,
            "written in, s": time.perf_counter() - started,
        }
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            tree = sorted(forest.done)[report.shown // 2]
            facts |= measure(page, report.path.as_uri(), tree, options.repeats)
    if options.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:24}{value:>10,.2f}" if isinstance(value, float) else f"{name:24}{value:>10,}")


if __name__ == "__main__":
    main()
