"""Links of the pages that the site does not build, and of sentences."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from simim_plugin.errors import Trouble

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


@pytest.mark.parametrize('trouble', Trouble)
def test_a_sentence_leads_to_a_heading(trouble):
    file, _, anchor = str(trouble).partition('#')
    headings = re.findall(r'^#+ (.*)$', (ROOT / file).read_text(), re.M)
    assert anchor in [title.lower().replace(' ', '-') for title in headings]


def test_every_trouble_is_named_by_a_sentence():
    package = ROOT / 'simim_plugin'
    text = '\n'.join(file.read_text() for file in package.rglob('*.py'))
    named = set(re.findall(r'Trouble\.([A-Z_]+)', text))
    assert named == {trouble.name for trouble in Trouble}
