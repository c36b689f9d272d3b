"""The script and style in the package are what their sources build."""

import subprocess
from pathlib import Path

from report.browser import packages

BUNDLE = Path(__file__).parents[2] / "malt_data" / "report" / "bundle"


def test_the_bundle_is_what_its_sources_build(tmp_path: Path) -> None:
    web = packages(tmp_path / "web")
    subprocess.run(["node", "build.js", str(tmp_path / "built")], cwd=web, check=True)
    built = {path.name: path.read_bytes() for path in (tmp_path / "built").iterdir()}
    assert set(built) == {"page.js", "page.css", "NOTICES.txt"}
    for name, content in built.items():
        assert (BUNDLE / name).read_bytes() == content, f"{name}: run npm run build in web/"


def test_every_library_in_the_bundle_has_its_licence() -> None:
    notices = (BUNDLE / "NOTICES.txt").read_text("utf-8").split("-" * 80)
    assert len(notices) > 10
    for notice in notices:
        head, _, text = notice.strip().partition("\n")
        assert "(" in head
        assert "Copyright" in text, head
