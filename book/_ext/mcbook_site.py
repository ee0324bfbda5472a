"""What the book's site needs beyond the theme: offline, accessible, exact.

A Sphinx extension (loaded through `local_extensions` in `_config.yml`).  It

* puts the repository's address and the package's version into the pages, so
  that `_config.yml` and `pyproject.toml` stay the only places where they are
  written;
* removes scripts that the theme's stack adds twice, or that would reach out
  to other hosts;
* offers "Open in Colab" on notebooks, and on nothing else;
* links every description in the API pages to its code;
* repairs what an accessibility checker finds in the theme's markup, and names
  the buttons that copy code;
* keeps only the part of MathJax that the pages load.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

# Written in a page as {{ repository_url }} or {{ version }}.
_TOKENS = re.compile(r"\{\{ (repository_url|version) \}\}")

# Parts of MathJax that the pages load: the bundle, its fonts, and the TeX
# extensions that the bundle fetches when a formula first uses them.
_MATHJAX_KEPT = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions")

# How the script that makes the copy buttons shall begin each.
_NAMED_BUTTON = '<button aria-label="Copy the code" class="copybtn'

# (pattern, replacement), each applied to the finished markup of every page.
# All are idempotent: a page may meet them twice.
_PATTERNS = [
    # Fonts are preloaded with `crossorigin`, which browsers refuse for pages
    # opened from a folder; the style sheet loads the same fonts anyway.
    (r'<link rel="preload" as="font"[^>]*>\s*', ""),
    # Icons come from the icon font; the script (1.4 MB) would do it once more.
    (r'<link rel="preload" as="script" href="[^"]*fontawesome[^"]*"\s*/?>\s*', ""),
    (r'<script src="[^"]*fontawesome[^"]*all\.min\.js[^"]*"></script>\s*', ""),
    # The logo and the chapter list belong to a landmark.
    (
        r'<div class="bd-sidebar-primary bd-sidebar([^"]*)">',
        r'<div class="bd-sidebar-primary bd-sidebar\1" role="region" aria-label="Book">',
    ),
    # The arrows of the chapter list need a name.
    (
        r'(<a class="(?:current )?reference internal" href="[^"]*">)([^<]+)'
        r"(</a><details[^>]*>)<summary>",
        r'\1\2\3<summary aria-label="Pages under \2">',
    ),
    # Two navigation landmarks on a page need two names.
    (
        r'<nav class="bd-toc-nav page-toc">',
        '<nav class="bd-toc-nav page-toc" aria-label="Contents">',
    ),
    # Roles that were withdrawn, and a list whose children are not list items.
    (r' role="doc-biblioentry"', ' role="listitem"'),
    # The theme writes one viewport line more than Sphinx does.
    (r'<meta name="viewport" content="width=device-width, initial-scale=1.0" />(?=<meta)', ""),
    # An id is given once: exercises and proofs give every body the same one.
    (r'(<section class="[a-z-]+-content") id="(?:exercise|solution|proof)-content"', r"\1"),
    (r'<section id="(exercise|solution|proof)-content">', r'<section class="\1-content">'),
    # A corner of a table that heads nothing is no header.
    (r"<th></th>", "<td></td>"),
]
_REPAIRS = [(re.compile(pattern), new) for pattern, new in _PATTERNS]


def configure(app: Sphinx, config: Config) -> None:
    """Set what `_config.yml` cannot: a function, and theme options beside others."""
    options = config.html_theme_options
    logo = options.setdefault("logo", {})
    logo.setdefault("text", config.html_title)
    logo.setdefault("alt_text", "Logo: two basins, and a path around the wall between them.")
    blob = f"{options['repository_url']}/blob/{options['repository_branch']}"

    def source_address(domain: str, info: dict[str, str]) -> str | None:
        """Where the code of a documented object is published."""
        if domain != "py" or not info["module"]:
            return None
        value: Any = sys.modules.get(info["module"])
        for name in info["fullname"].split("."):
            value = getattr(value, name, None)
        value = value.fget if isinstance(value, property) else value
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            return None
        if not str(value.__module__).startswith("mcbook"):
            return None
        value = inspect.unwrap(value)
        lines, start = inspect.getsourcelines(value)
        file = inspect.getsourcefile(value) or ""
        package = Path(sys.modules["mcbook"].__file__ or "").parent
        path = Path(file).relative_to(package.parent).as_posix()
        return f"{blob}/{path}#L{start}-L{start + len(lines) - 1}"

    config.linkcode_resolve = source_address


def skip_borrowed(
    app: Sphinx, what: str, name: str, value: object, skip: bool, options: object
) -> bool | None:
    """Describe a name where it is defined, not again where a module re-exports it."""
    home = getattr(value, "__module__", None)
    here = app.env.temp_data.get("autodoc:module")
    borrowed = what == "module" and str(home).startswith("mcbook") and home != here
    return True if borrowed else None


def draw_tables(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Turn the Markdown tables of a docstring into what Sphinx reads as tables."""
    done: list[str] = []
    for place, line in enumerate(lines):
        if not line.startswith("|"):
            done.append(line)
        elif set(line) <= set("|-: "):
            continue
        else:
            if place == 0 or not lines[place - 1].startswith("|"):
                done += [".. list-table::", "   :header-rows: 1", ""]
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            done += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    lines[:] = done


def fill_tokens(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace `{{ repository_url }}` and `{{ version }}`, in code blocks too."""
    if app.env.doc2path(docname).endswith(".ipynb"):
        return
    values = {
        "repository_url": app.config.html_theme_options.get("repository_url", ""),
        "version": version("mcbook"),
    }
    source[0] = _TOKENS.sub(lambda match: values[match[1]], source[0])


def tidy_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Drop thebe (it loads from another host) and everything that comes twice."""
    for key in ("script_files", "css_files"):
        seen: set[tuple[str, str]] = set()
        kept = []
        for file in context.get(key, []):
            name = str(getattr(file, "filename", file) or "")
            body = str(getattr(file, "attributes", {}).get("body", ""))
            if "thebe" in name or "THEBE" in body or (name, body) in seen:
                continue
            seen.add((name, body))
            kept.append(file)
        context[key] = kept


def place_colab_button(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """One button on a notebook, none on other pages (the theme's is a menu on all)."""
    buttons = context.get("header_buttons", [])
    launch = [button for button in buttons if button.get("label") == "launch-buttons"]
    others = [button for button in buttons if button.get("label") != "launch-buttons"]
    if launch and pagename in app.env.found_docs:
        (colab,) = launch[0]["buttons"]
        if colab["url"].endswith(".ipynb"):
            others.insert(0, {**colab, "tooltip": "Run this chapter on Colab", "label": "colab"})
    if "header_buttons" in context:
        context["header_buttons"] = others


# A signature of several lines: Sphinx writes definitions that define no term.
_SIGNATURE = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>')


def _lines(signature: re.Match[str]) -> str:
    """The same parameters as plain lines."""
    rows = signature[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{rows}</span>'


def repair(page: str) -> str:
    """The markup of a page with the theme's known faults mended.

    Args:
        page: the text of an HTML file.

    Returns:
        The text to write in its place.
    """
    for pattern, new in _REPAIRS:
        page = pattern.sub(new, page)
    return _SIGNATURE.sub(_lines, page)


def repair_pages(app: Sphinx, exception: Exception | None) -> None:
    """Mend every page of a finished build."""
    if exception is not None or app.builder.format != "html":
        return
    for file in Path(app.outdir).rglob("*.html"):
        before = file.read_text(encoding="utf-8")
        after = repair(before)
        if after != before:
            file.write_text(after, encoding="utf-8")


def prune(app: Sphinx, exception: Exception | None) -> None:
    """Drop what no page loads: most of MathJax, source maps, the icon script."""
    static = Path(app.outdir, "_static")
    if exception is not None or not static.is_dir():
        return
    mathjax = static / "mathjax"
    unused = [
        file
        for file in mathjax.rglob("*")
        if file.is_file() and not file.relative_to(mathjax).as_posix().startswith(_MATHJAX_KEPT)
    ]
    unused += static.rglob("*.map")
    unused += static.glob("vendor/fontawesome/*/js/*")
    unused += static.glob("sphinx-thebe.*")
    unused += static.glob("*webpack-macros.html")
    for file in unused:
        file.unlink()
    for folder in sorted(static.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def name_copy_buttons(app: Sphinx, exception: Exception | None) -> None:
    """Give the buttons that copy code a name: the script makes them with a picture alone."""
    script = Path(app.outdir, "_static", "copybutton.js")
    if exception is not None or not script.is_file():
        return
    before = script.read_text(encoding="utf-8")
    after = before.replace('<button class="copybtn', _NAMED_BUTTON)
    if after != before:
        script.write_text(after, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect everything to Sphinx's events."""
    app.connect("config-inited", configure)
    app.connect("source-read", fill_tokens)
    app.connect("autodoc-skip-member", skip_borrowed)
    app.connect("autodoc-process-docstring", draw_tables)
    app.connect("html-page-context", tidy_scripts, priority=900)
    app.connect("html-page-context", place_colab_button, priority=900)
    app.connect("build-finished", repair_pages, priority=900)
    app.connect("build-finished", prune, priority=900)
    app.connect("build-finished", name_copy_buttons, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
