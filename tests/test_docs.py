"""The pages that the site does not build: their links and lengths."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from .conftest import ROOT

PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'configs').rglob('*.md')),
]


def links(page: Path) -> set[str]:
    """Return where the links and pictures of a page lead."""
    tokens = MarkdownIt('gfm-like', {'linkify': False}).parse(page.read_text())
    parts = [p for token in tokens for p in token.children or ()]
    return {str(p.attrs.get('href') or p.attrs.get('src')) for p in parts} - {
        'None'
    }


@pytest.mark.parametrize(
    'page', PAGES, ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files(page):
    found = links(page)
    local = {link.partition('#')[0] for link in found if '://' not in link}
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_the_readme_is_a_page_with_links():
    page = ROOT / 'README.md'
    assert len(page.read_text().splitlines()) <= 90
    assert len(links(page)) > 20
