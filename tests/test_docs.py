"""Links of the pages that the site does not build; the public names."""

import ast
import importlib.util
import inspect
import re
from importlib import import_module
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


def test_pages_that_code_and_configs_name_are_there():
    named = set()
    for folder in ('simim_plugin', 'tools', 'configs'):
        for file in (ROOT / folder).rglob('*.py'):
            named |= set(re.findall(r'docs/[\w/-]+\.md', file.read_text()))
    assert len(named) > 10
    assert not [page for page in named if not (ROOT / page).is_file()]


def test_every_trouble_is_named_by_a_sentence():
    package = ROOT / 'simim_plugin'
    text = '\n'.join(file.read_text() for file in package.rglob('*.py'))
    named = set(re.findall(r'Trouble\.([A-Z_]+)', text))
    assert named == {trouble.name for trouble in Trouble}


def reference():
    """Import docs/reference.py, which lists the public packages."""
    file = ROOT / 'docs' / 'reference.py'
    spec = importlib.util.spec_from_file_location('reference', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PUBLIC = reference().PUBLIC


def test_a_module_lists_names_if_it_is_public():
    found = set()
    for file in (ROOT / 'simim_plugin').rglob('*.py'):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign):
                names = {getattr(target, 'id', '') for target in node.targets}
                if '__all__' in names:
                    path = file.relative_to(ROOT).with_suffix('')
                    found.add('.'.join(path.parts).removesuffix('.__init__'))
    assert found == PUBLIC.keys()


@pytest.mark.parametrize('name', PUBLIC)
def test_public_names_are_explained(name):
    """What a package merely uses is imported from where it is defined."""
    module = import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    for public in set(module.__all__) - {'__version__'}:
        found = getattr(module, public)
        assert inspect.isclass(found) or inspect.isroutine(found), public
        assert found.__module__.startswith('simim_plugin.'), public
        assert vars(found).get('__doc__') or found.__doc__, public


def test_the_table_of_public_names_is_what_the_packages_list():
    rows = re.findall(
        r'^\| \[(\S+)\]\S+ \|.*\| (.*) \|$', reference()._public(), re.M
    )
    table = {name: re.findall(r'`(\w+) <', names) for name, names in rows}
    assert table == {n: import_module(n).__all__ for n in PUBLIC}
