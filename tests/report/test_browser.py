"""The page in a real browser: what people see, click, press and hear."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect
from report.browser import chromium, opened, packages
from report.test_report import block
from synthetic import begin, make_forest, think

from malt_data.evaluation.results import Results, open_results
from malt_data.forests.forest import Forest
from malt_data.report.report import write_report
from malt_data.schemas.pipeline import Pipeline, shipped

pytestmark = pytest.mark.slow

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "steps" / "warm"
HOSTILE = [
    "<script>window.hacked = 1; alert(1)</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "<!-- <script> {{ 7 * 7 }} {% raw %} ${7 * 7} ",
    "\u2028\u2029\u202egnidaer\u2066 \x00\x1b[31m\ufeff\u200b",
    "&lt;b&gt; <b>bold</b> <style>*{display:none}</style>",
    "]]> \\u003cscript\\u003e '\"`",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    web = packages(tmp_path_factory.mktemp("npm") / "web")
    return (web / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    forest = make_forest(tmp_path_factory.mktemp("report") / "trees", trees=120, n=(2, 2, 2))
    think(forest, [None, "Let me see.", None])
    return forest


@pytest.fixture(scope="module")
def page_of(forest: Forest) -> str:
    out = forest.folder.parent / "report.html"
    write_report(forest, out)
    return out.as_uri()


@pytest.fixture(scope="module")
def results_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("results") / "results.html"
    write_report(open_results(RESULTS), out)
    return out.as_uri()


def shown(page: Page) -> dict[str, float]:
    """Return the exact numbers on a page by table/row/column."""
    cells: dict[str, str] = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('data[data-cell]')]"
        ".map((cell) => [cell.dataset.cell, cell.value]))"
    )
    return {cell: float(value) for cell, value in cells.items()}


def wait_for_charts(page: Page) -> None:
    """Wait until every chart is drawn, which happens once its place has a width."""
    drawn = "() => [...document.querySelectorAll('.chart')].every((place) => place.firstChild)"
    page.wait_for_function(drawn)


@pytest.mark.parametrize("kind", ["forest", "results"])
def test_every_number_is_that_of_its_query(
    kind: str, browser: Browser, forest: Forest, page_of: str, results_page: str
) -> None:
    source: Forest | Results = forest if kind == "forest" else open_results(RESULTS)
    address = page_of if kind == "forest" else results_page
    with opened(browser, address) as page:
        cells = shown(page)
    content = Path(unquote(urlsplit(address).path)).read_text("utf-8")
    tables = block(content, "facts")["tables"]
    asked = [table for table in tables if table["query"]]
    assert len(asked) >= 5
    for table in asked:
        rows = source.sql(table["query"]).to_dicts()
        expected = {
            f"{table['id']}/{index}/{name}": float(value)
            for index, row in enumerate(rows)
            for name, value in row.items()
            if isinstance(value, int | float) and name != table["columns"][0]
        }
        found = {c: v for c, v in cells.items() if c.startswith(f"{table['id']}/")}
        assert {c: found[c] for c in expected if c in found} | expected == expected | found


def test_filters_and_search_find_what_sql_finds(
    browser: Browser, forest: Forest, page_of: str
) -> None:
    conditions = {
        "mixed": "outcome = 'mixed'",
        "all right": "outcome = 'all right'",
        "all wrong": "outcome = 'all wrong'",
        "verifier misled": "misled > 0",
        "rescued": "rescued > 0",
        "spoiled": "spoiled > 0",
        "cut off": "truncated > 0",
    }
    with opened(browser, page_of + "#/trees") as page:
        for name, condition in conditions.items():
            count = forest.sql(f"SELECT count(*) FROM trees WHERE {condition}").item()
            page.get_by_role("button", name=f"{name} {count}", exact=True).click()
            expect(page.get_by_role("status")).to_have_text(f"{count} of 120")
        page.get_by_role("button", name="all 120").click()
        page.get_by_role("searchbox").fill("question 17 ")
        expect(page.get_by_role("status")).to_have_text("1 of 120")
        expect(page.locator(".items a")).to_contain_text("Question 17 of 0?")
        page.get_by_role("searchbox").fill("nothing like it")
        expect(page.get_by_role("status")).to_have_text("0 of 120")


def test_a_link_opens_a_node_with_its_texts(browser: Browser, forest: Forest, page_of: str) -> None:
    node = forest.sql("FROM nodes WHERE depth = 3 AND NOT label ORDER BY node_id DESC LIMIT 1")
    name = node["node_id"].item()
    with opened(browser, f"{page_of}#/trees/{name}") as page:
        turns = page.locator(".transcript .turn")
        expect(turns).to_have_count(3)
        expect(turns.last.locator("pre").last).to_have_text(node["text"].item())
        assert page.locator(".node[aria-current]").get_attribute("href") == f"#/trees/{name}"
        pairs = forest.sql(f"FROM pairs WHERE parent_id = '{node['parent_id'].item()}'")
        expect(page.locator(".pairs > ul > li")).to_have_count(len(pairs))


def test_the_keyboard_alone_reads_a_tree(browser: Browser, forest: Forest, page_of: str) -> None:
    first = min(forest.done)
    with opened(browser, page_of) as page:
        page.keyboard.press("Tab")  # skip to the content
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("searchbox")).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.type(first)
        expect(page.get_by_role("status")).to_have_text("1 of 120")
        for _ in range(20):  # past filters and sorting to the only tree of the list
            page.keyboard.press("Tab")
            if page.locator(".items a:focus").count():
                break
        page.keyboard.press("Enter")
        expect(page.locator(".steps .id")).to_have_text(first)
        expect(page.locator(".transcript .turn")).to_have_count(3)
        for key, place in [("ArrowLeft", 2), ("ArrowLeft", 1), ("ArrowRight", 2)]:
            page.keyboard.press(key)
            expect(page.locator(".transcript .turn")).to_have_count(place)
        last = page.url.rpartition("/")[2].partition("?")[0]
        page.keyboard.press("ArrowUp" if last.endswith("1") else "ArrowDown")
        expect(page.locator(".node[aria-current]")).to_be_focused()
        assert page.url.rpartition("/")[2].partition("?")[0] != last


def test_thinking_is_there_and_folded(browser: Browser, forest: Forest, page_of: str) -> None:
    node = forest.sql("SELECT node_id FROM nodes WHERE thinking IS NOT NULL LIMIT 1").item()
    with opened(browser, f"{page_of}#/trees/{node}") as page:
        thought = page.locator(".transcript .turn").last.locator("details")
        expect(thought.locator("pre")).to_be_hidden()
        thought.locator("summary").click()
        expect(thought.locator("pre")).to_have_text("Let me see.")


def test_hostile_texts_stay_text(browser: Browser, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "</title><script>window.hacked = 1</script>", trees=3)
    begin(forest, HOSTILE)
    think(forest, HOSTILE)
    out = tmp_path / "report.html"
    write_report(forest, out)
    source = out.read_text("utf-8")
    assert "window.hacked" not in source.replace("window.hacked = 1&lt;", "")
    nodes = forest.sql("SELECT node_id, text FROM nodes WHERE depth = 3 LIMIT 12").rows()
    with opened(browser, out.as_uri() + "#/trees") as page:
        before = page.locator("script, style, img").count()
        for name, text in nodes:
            page.evaluate(f"() => {{ location.hash = '#/trees/{name}' }}")
            expect(page.locator(".node[aria-current]")).to_have_attribute("href", f"#/trees/{name}")
            seen = page.locator(".transcript .turn").last.locator("pre").last.text_content()
            assert seen is not None
            assert not set(seen) & set("\u2028\u2029\u202e\u2066\x00\x1b\ufeff\u200b")
            marked = {"\u202e": "⟨U+202E⟩", "\x00": "␀", "\x1b": "␛"}
            for control, glyph in marked.items():
                assert seen.count(glyph) >= text.count(control)
        assert page.evaluate("() => window.hacked") is None
        assert page.locator("script, style, img").count() == before


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True), (2560, False)])
def test_axe_finds_nothing_and_nothing_overflows(
    width: int, dark: bool, browser: Browser, axe: str, forest: Forest, page_of: str,
    results_page: str,
) -> None:  # fmt: skip
    tree = f"{page_of}#/trees/{min(forest.done)}"
    question = open_results(RESULTS).sql("SELECT min(question_id) FROM questions").item()
    addresses = [page_of, f"{page_of}#/trees", tree, f"{tree}?view=branches", results_page,
                 f"{results_page}#/compare/{question}"]  # fmt: skip
    for address in addresses:
        with opened(browser, address, width=width, dark=dark) as page:
            wait_for_charts(page)
            page.evaluate(axe)
            found = page.evaluate("async () => (await axe.run()).violations")
            told = [(one["id"], one["nodes"][0]["html"][:200]) for one in found]
            assert told == [], address
            wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, address


def test_two_settings_are_compared_question_by_question(
    browser: Browser, results_page: str
) -> None:
    results = open_results(RESULTS)
    one, two = "star-ma", "malt"
    rows = results.sql(
        "SELECT a.question_id FROM predictions a JOIN predictions b USING (question_id, seed) "
        "WHERE a.setting = $1 AND b.setting = $2 AND NOT a.correct AND b.correct ORDER BY 1",
        [one, two],
    )
    count = len(rows)
    assert count > 0
    with opened(browser, f"{results_page}#/compare?one={one}&two={two}") as page:
        page.get_by_role("button", name=f"{two} better {count}").click()
        expect(page.get_by_role("status")).to_have_text(f"{count} of 100")
        page.locator(".items a").first.click()
        expect(page.locator(".sides > section")).to_have_count(2)
        said = results.sql(
            "SELECT text FROM completions WHERE setting = $1 AND question_id = $2 AND turn = 2",
            [two, rows["question_id"][0]],
        ).item()
        expect(page.locator(".sides > section").last.locator("pre").last).to_have_text(said)


def test_a_theme_can_be_chosen(browser: Browser, page_of: str) -> None:
    with opened(browser, page_of) as page:
        light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        page.get_by_label("Theme").select_option("dark")
        expect(page.locator("body")).not_to_have_css("background-color", light)


def test_many_siblings_are_in_sight_and_their_pairs_in_steps(
    browser: Browser, tmp_path: Path
) -> None:
    forest = make_forest(
        tmp_path / "trees", trees=2, n=(40,), pipeline=shipped("generator"), seed=1
    )
    out = tmp_path / "report.html"
    write_report(forest, out)
    name = min(forest.done)
    pairs = forest.sql("SELECT count(*) FROM pairs WHERE question_id = $1", [name]).item()
    assert pairs > 100
    with opened(browser, f"{out.as_uri()}#/trees/{name}/g39") as page:
        expect(page.locator(".node[aria-current]")).to_be_in_viewport()
        expect(page.locator(".pairs > ul > li")).to_have_count(50)
        page.get_by_role("button", name=f"50 more of {pairs}").click()
        expect(page.locator(".pairs > ul > li")).to_have_count(100)
    with opened(browser, out.as_uri()) as page:
        wait_for_charts(page)
        texts = page.locator("#section-forest svg text").all_text_contents()
        assert [text for text in texts if text.isdecimal()] == ["0", "1", "2"]


def test_long_names_of_roles_fit(browser: Browser, tmp_path: Path) -> None:
    long, judge = "a_name_of_thirty_two_letters_000", "constructor"
    turns = [{"role": long, "n": 2}, {"role": judge, "n": 2, "judges": True}]
    prompts = {long: {"user": "{question}"}, judge: {"user": f"{{question}} {{{long}}}"}}
    pipeline = Pipeline.model_validate({"turns": turns, "prompts": {"numeric": prompts}})
    out = tmp_path / "report.html"
    forest = make_forest(tmp_path / "trees", trees=4, n=(2, 2), pipeline=pipeline)
    write_report(forest, out)
    for address in (out.as_uri(), f"{out.as_uri()}#/trees/{min(forest.done)}"):
        with opened(browser, address, width=360) as page:
            wait_for_charts(page)
            assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_last_setting_is_compared_with_another(browser: Browser, results_page: str) -> None:
    last = open_results(RESULTS).settings[-1]
    with opened(browser, f"{results_page}#/compare?one={quote(last)}&filter=constructor") as page:
        one, two = page.locator(".list select").all()[:2]
        assert one.input_value() == last != two.input_value()
        expect(page.get_by_role("status")).to_have_text("100 of 100")
