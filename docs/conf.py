"""Settings of the documentation, which Sphinx builds (``make docs``)."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import reference  # noqa: E402

import simim_plugin  # noqa: E402

project = 'simim_plugin'
version = release = simim_plugin.__version__
extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'myst_nb',
]
exclude_patterns = ['_build']

html_theme = 'furo'
html_title = 'simim_plugin'
html_copy_source = html_show_sphinx = html_show_copyright = False
html_use_index = html_domain_indices = False  # the search finds names
html_static_path = ['static']
html_css_files = ['site.css']

smartquotes = False  # options of commands begin with two hyphens
myst_heading_anchors = 4
nb_execution_mode = os.environ.get('SIMIM_NOTEBOOKS', 'off')
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
nb_output_stderr = 'remove'  # progress bars

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings have them, with shapes
napoleon_use_rtype = False

reference.write(DOCS / 'generated')


def setup(app):
    """On the site, links to a folder of configs lead to the list of them."""

    def list_of_configs(link):
        heading = reference.CONFIGS[link[1]].lower()
        return f'(/generated/configs.md#{heading})'

    def redirect(app, name, source):
        pattern = r'\(\.\./configs/(\w+)/README\.md\)'
        source[0] = re.sub(pattern, list_of_configs, source[0])

    app.connect('source-read', redirect)
