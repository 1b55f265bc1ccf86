"""How Sphinx makes the site. ``book.py`` lays out what it reads, and calls it."""

project = "LoRA, step by step"
author = "the course's authors"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
html_theme = "sphinx_book_theme"
html_title = project
templates_path = ["site"]
html_sidebars = {"**": ["home.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_static_path = ["site/site.css"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "use_download_button": False,  # each page offers its notebook itself
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "article_header_end": ["theme-switcher", "toggle-secondary-sidebar"],
}
mathjax3_config = {"options": {"enableMenu": False}}  # what the menu offers would have to come along
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
# Light and dark, both with letters that stand out enough.
pygments_style = "a11y-high-contrast-light"
