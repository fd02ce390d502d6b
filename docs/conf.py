"""Sphinx configuration of the manual; ``make docs`` builds it, without a network."""

import os
import sys
from pathlib import Path

# Before torch is imported: the models are small, and where another process wants a core too, several threads crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
OWN = ("", "docs/_ext", "plugins/foolbox", "plugins/robustbench", "tests/example_plugin")
sys.path[:0] = [str(ROOT / folder) for folder in OWN]

from inventories import write_inventories  # noqa: E402

import freqrob  # noqa: E402

project = "freqrob"
author = "freqrob contributors"
project_copyright = author
release = version = freqrob.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_gallery.gen_gallery",
    "command_line",
    "docstrings",
    "public_names",
    "results",
]
exclude_patterns = ["_build", "_ext", "pictures", "tutorials/*.rst", "tutorials/*.py"]
nitpicky = False
smartquotes = False  # --data is an option
default_role = "py:obj"  # `images` in a docstring is code, and a link if it names something documented

html_theme = "furo"
html_title = f"freqrob {release}"
html_static_path = ["_static"]
html_css_files = ["freqrob.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_domain_indices = False  # the reference has the modules
html_show_sourcelink = False
html_show_search_summary = False  # it fetches pages, which browsers refuse in a folder

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False

# Inventories of other projects are written from a short list, so that links to them need no network to build.
intersphinx_mapping = write_inventories(DOCS / "_build" / "inventories")
intersphinx_disabled_reftypes = ["std:*"]

plot_formats = [("svg", 100)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = False
plot_rcparams = {"svg.hashsalt": "freqrob", "figure.autolayout": False}
plot_apply_rcparams = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "capture_repr": (),
    "within_subsection_order": "FileNameSortKey",
    "show_signature": False,
    "write_computation_times": False,  # its page loads scripts from elsewhere
    "remove_config_comments": True,
    "plot_gallery": "True",
    "min_reported_time": 3,
    "backreferences_dir": None,
    "image_scrapers": ("matplotlib",),
    "reference_url": {"freqrob": None},
}
suppress_warnings = ["config.cache"]  # the gallery's configuration holds functions
