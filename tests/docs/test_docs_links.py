"""No page points at something that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for folder in (".", "docs", "deploy", "bench")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    bare = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in bare}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_has_no_dead_relative_link(page: Path) -> None:
    text = (ROOT / page).read_text()
    dead = []
    for link in _LINK.findall(_CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        there = (ROOT / page).parent / target if target else ROOT / page
        if not there.exists() or (
            anchor and there.suffix == ".md" and anchor not in anchors(there.read_text())
        ):
            dead.append(link)

    assert dead == []


def test_the_pages_are_found_at_all() -> None:
    assert {Path("README.md"), Path("docs/policy.md"), Path("deploy/README.md")} <= set(PAGES)
