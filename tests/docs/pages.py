"""What the pages hold that a test can run or look up."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

EXAMPLE = re.compile(r"<!-- example: ([\w ]+) -->\n```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def examples(page: str) -> dict[str, str]:
    """The fenced Python blocks of a page that a comment names, by that name."""
    found = EXAMPLE.findall((ROOT / page).read_text())
    assert len(dict(found)) == len(found), "two examples of one name"
    return dict(found)


def links(page: str) -> list[str]:
    """The targets of a page's links, without those to other sites."""
    return [target for target in LINK.findall((ROOT / page).read_text()) if "://" not in target]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
