"""Push a page to a static Space on the Hub, which then shows it.

push_page(Path("report.html"), "me/trees-report", title="gsm8k")   # the Space's address
"""

from pathlib import Path

import yaml

from malt_data.storage.hub import commit, create_space, explain_hub_errors, require_repo, space_url


def push_page(page: Path, repo: str, *, title: str, private: bool = False) -> str:
    """Push a page and the Space's card in one commit; return the Space's address.

    The Space is created if it does not exist. Raises HubError if the Hub refuses.
    """
    require_repo(repo)
    facts = {"title": title, "sdk": "static", "app_file": "index.html", "tags": ["malt-data"]}
    head = yaml.safe_dump(facts, allow_unicode=True, sort_keys=False)
    card = f"---\n{head}---\n\nA report of [malt-data](https://pypi.org/project/malt-data).\n"
    with explain_hub_errors(repo):
        create_space(repo, private=private)
        files: dict[str, Path | bytes] = {"index.html": page, "README.md": card.encode()}
        commit(repo, files, message=f"malt-data: {title}", repo_type="space")
        return space_url(repo)
