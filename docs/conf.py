"""Sphinx's configuration: Markdown pages, the furo theme, nothing fetched while building or reading."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from verlock import __version__

project = "verlock"
author = "the verlock authors"
copyright = f"2026, {author}"
release = version = __version__

extensions = ["myst_parser"]
exclude_patterns = ["make"]
smartquotes = False  # `--` is an option
myst_heading_anchors = 3  # `page.md#heading`, as on GitHub
myst_enable_extensions = ["deflist"]

html_theme = "furo"
html_title = f"verlock {release}"
html_static_path = ["_static"]
html_css_files = ["verlock.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
