"""The site: built with warnings as errors, complete, honest, and never lost half-way."""

from __future__ import annotations

import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

import mcbook as mc
from mcbook.errors import DamagedFileError
from mcbook.records import save_record
from mcbook.site import SiteError, build_site, stage_book
from mcbook.site_api import api_section, modules
from mcbook.site_pages import markdown_table, provenance_section, read_status, status_section

STATUS = {
    "scale": "smoke",
    "machine": {"python": "3.11", "cpu": "abacus", "threads": 1},
    "chapters": [
        {
            "name": "01_tiny",
            "title": "A tiny chapter",
            "seconds": 71.4,
            "ok": True,
            "verdicts": {"held": 5, "expected_not": 2, "unexpected": 0},
            "error": None,
        },
        {
            "name": "02_lost",
            "title": "A | lost chapter",
            "seconds": None,
            "ok": False,
            "verdicts": {"held": 1, "expected_not": 0, "unexpected": 1},
            "error": "Traceback\nValueError: no such thing",
        },
    ],
}


class Links(HTMLParser):
    """The addresses that a page's links, pictures, scripts and style sheets name."""

    def __init__(self, page: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Collect what one tag names."""
        named = dict(attrs)
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        if tag in ("script", "img", "iframe", "source") and named.get("src"):
            self.loaded.append(named["src"])
        if tag == "link" and named.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(named["href"])


def pages(site: Path) -> dict[str, Path]:
    return {page.relative_to(site).as_posix(): page for page in sorted(site.rglob("*.html"))}


def toc_files(root: Path) -> list[str]:
    """Every page that the table of contents lists."""
    text = (root / "_toc.yml").read_text(encoding="utf-8")
    return re.findall(r"^\s*(?:- file|root): (\S+)", text, re.M)


# ---- the finished site --------------------------------------------------------------


def test_every_page_of_the_contents_is_built(root, site):
    listed = toc_files(root)
    assert len(listed) == len(set(listed)) > 10
    assert {f"{name}.html" for name in listed} <= set(pages(site))
    assert (site / "index.html").is_file()


def test_every_committed_notebook_is_listed(root):
    notebooks = {f"book/{file.stem}" for file in (root / "book").glob("*.ipynb")}
    sources = {f"book/{file.stem}" for file in (root / "book" / "src").glob("[0-9]*.md")}
    assert notebooks == sources
    assert notebooks <= set(toc_files(root))


def test_links_inside_the_site_lead_somewhere(site):
    there = pages(site)
    anchors = {
        name: set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))
        for name, page in there.items()
    }
    lost = []
    for name, page in there.items():
        for link in Links(page).links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            key = target.relative_to(site.resolve()).as_posix() if target.exists() else None
            if key is None or (anchor and key in anchors and anchor not in anchors[key]):
                lost.append(f"{name}: {link}")
    assert not lost


def test_pages_load_nothing_from_other_hosts(site):
    for name, page in pages(site).items():
        for address in Links(page).loaded:
            assert not re.match(r"(https?:)?//", address), f"{name} loads {address}"
            if not address.startswith("data:"):
                assert (page.parent / address.partition("?")[0]).is_file(), f"{name}: {address}"


def test_no_script_comes_twice_and_none_reaches_out(site):
    for name, page in pages(site).items():
        scripts = re.findall(r'<script[^>]*\bsrc="([^"]+)"', page.read_text(encoding="utf-8"))
        assert len(scripts) == len(set(scripts)), f"{name}: {scripts}"
        assert not any("thebe" in script or "require" in script for script in scripts), name


def test_site_carries_only_the_formulas_it_needs(site):
    mathjax = site / "_static" / "mathjax"
    assert {entry.name for entry in mathjax.iterdir()} == {"tex-chtml.js", "output", "input"}
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size < 25e6, f"the site has {size / 1e6:.0f} MB"


def test_colab_button_opens_the_committed_notebook(root, site):
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
    owner_and_name = config["url"].removeprefix("https://github.com/")
    before = f"https://colab.research.google.com/github/{owner_and_name}/blob/{config['branch']}/"
    chapters = 0
    for name, page in pages(site).items():
        found = [link for link in Links(page).links if "colab.research" in link]
        if re.match(r"book/\d\d_", name):
            assert found == [before + name.replace(".html", ".ipynb")]
            assert (root / found[0].removeprefix(before)).is_file()
            chapters += 1
        else:
            assert not found, f"{name} is no notebook and has a Colab button"
    assert chapters >= 1


def test_repository_is_written_into_the_pages(root, site):
    url = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    intro = (site / "book" / "intro.html").read_text(encoding="utf-8")
    assert f"git clone {url}" in re.sub("<[^>]+>", "", intro)
    for name, page in pages(site).items():
        text = page.read_text(encoding="utf-8")
        assert "{{ repository_url }}" not in text, name
        assert "<!-- made by the build" not in text, name


# ---- the pages tell the truth ---------------------------------------------------------


def test_every_module_and_every_public_name_is_described(site):
    text = {
        name: page.read_text(encoding="utf-8")
        for name, page in pages(site).items()
        if name.startswith("book/api/")
    }
    for name, file in modules().items():
        if name != "mcbook" and file.name != "__init__.py":
            shown = [page for page, html in text.items() if f'id="module-{name}"' in html]
            assert len(shown) == 1, f"{name} is described on {shown or 'no page'}"
    index = text["book/api/index.html"]
    assert [name for name in mc.__all__ if f"mc.{name}<" not in index] == []


def test_methods_page_says_what_is_here(root):
    rows = [
        line
        for line in (root / "book" / "methods.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| [A-Z]", line) and not line.startswith("| Method")
    ]
    assert len(rows) > 20
    for row in rows:
        state = row.rstrip("| ").rpartition("|")[2].strip()
        assert state in ("here", "planned"), row
        for name in re.findall(r"`mc\.(\w+)", row):
            assert hasattr(mc, name) == (state == "here"), row
        for name in re.findall(r"`(mcbook\.\w+)`", row):
            assert (importlib.util.find_spec(name) is not None) == (state == "here"), row


def test_map_of_chapters_says_what_is_here(root):
    text = (root / "book" / "intro.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.+?) \| .+ \| (\S+) \|$", text, re.M)
    assert [number for number, _, _ in rows] == list("123456789")
    for number, title, state in rows:
        there = list((root / "book").glob(f"0{number}_*.ipynb"))
        assert (state == "**here**") == bool(there), title
        if there:
            assert f"({there[0].name})" in title


def test_teaching_page_has_a_row_per_chapter(root):
    text = (root / "book" / "teaching.md").read_text(encoding="utf-8")
    for notebook in (root / "book").glob("[0-9]*.ipynb"):
        assert re.search(rf"^\| \d\. \[.+\]\({notebook.name}\) \|", text, re.M), notebook.name


# ---- what the build writes --------------------------------------------------------------


def test_status_of_a_run(tmp_path):
    (tmp_path / "01_tiny.ipynb").write_text("{}")
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    text = status_section(read_status(tmp_path), tmp_path)
    assert "2 chapters ran at scale `smoke`, in 1 min 11 s altogether" in text
    assert "1 chapter to the end, 1 failure, 1 unexpected verdict" in text
    assert "| [A tiny chapter](01_tiny.ipynb) | ran | 1 min 11 s | 5 | 2 | 0 |" in text
    assert "| A \\| lost chapter | failed: ValueError: no such thing | not measured |" in text
    assert "| cpu | `abacus` |" in text


def test_status_without_a_run_says_so(tmp_path):
    assert read_status(None) is None
    assert read_status(tmp_path) is None
    text = status_section(None, tmp_path)
    assert "No chapter was run for this site" in text
    assert "| python |" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"chapters": 3}'])
def test_damaged_status_is_refused(tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"status\.json: expected"):
        read_status(tmp_path)


def test_provenance_shows_every_record(tmp_path):
    assert "no recorded results" in provenance_section(tmp_path)
    table = pd.DataFrame({"t": [0.0, 0.5], "loss": [0.1, 1.0]})
    save_record("one_wall", table, tmp_path, commit="0123456789abcdef+changes", seeds=[0, 1])
    text = provenance_section(tmp_path)
    assert "[one_wall](#record-one_wall) | 2 |" in text
    assert "`0123456789ab` with changes" in text
    assert "(record-one_wall)=\n## Record one_wall" in text
    assert "2 rows of `t`, `loss`" in text
    assert "| seeds | `0, 1` |" in text


def test_provenance_puts_the_arguments_of_jobs_together(tmp_path):
    jobs = {f"{w},{p}": {"width": w, "pair": p} for w in (16, 64) for p in range(5)}
    table = pd.DataFrame({"t": [0.0, 0.5]})
    save_record("study", table, tmp_path, arguments=jobs)
    text = provenance_section(tmp_path)
    line = "| arguments | `width: 16, 64; pair: 0 to 4; 10 jobs, every combination` |"
    assert line in text
    assert "arguments:" not in text
    del jobs["16,0"]
    save_record("other", table, tmp_path, arguments=jobs)
    assert "`width: 16, 64; pair: 0 to 4; 9 jobs`" in provenance_section(tmp_path)
    save_record("single", table, tmp_path, arguments={"epochs": 3})
    assert "| arguments: epochs | `3` |" in provenance_section(tmp_path)


def test_tables_survive_bars_and_line_breaks():
    assert markdown_table(["a", "b"], [["x|y", "1\n2"]]).splitlines()[-1] == "| x\\|y | 1 2 |"


def test_api_of_what_is_not_there_yet():
    assert api_section(["mcbook.nowhere"], ["mcbook.nowhere"]) == "Nothing here yet.\n"


# ---- staging, failing, being killed ---------------------------------------------------------


def small_book(root: Path, page: str = "# A page\n\nText.\n") -> Path:
    """A book of one page, quick to build."""
    (root / "book").mkdir(parents=True)
    (root / "_config.yml").write_text('title: Tiny\nexecute: {execute_notebooks: "off"}\n')
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (root / "book" / "intro.md").write_text(page)
    return root


def test_fresh_notebooks_are_shown_and_nothing_in_book_changes(tmp_path):
    root = small_book(tmp_path / "root", "# A page\n\n<!-- made by the build: status -->\n")
    (root / "book" / "01_tiny.ipynb").write_text("committed")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "01_tiny.ipynb").write_text("fresh")
    (fresh / "status.json").write_text(json.dumps(STATUS))
    stage = stage_book(root, tmp_path / "stage", fresh)
    assert (stage / "book" / "01_tiny.ipynb").read_text() == "fresh"
    assert "[A tiny chapter](01_tiny.ipynb)" in (stage / "book" / "intro.md").read_text()
    assert (root / "book" / "01_tiny.ipynb").read_text() == "committed"
    assert "made by the build" in (root / "book" / "intro.md").read_text()


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found no _config\.yml in it"):
        build_site(tmp_path, tmp_path / "html")
    root = small_book(tmp_path / "root")
    with pytest.raises(FileNotFoundError, match="expected a folder of executed chapters"):
        build_site(root, tmp_path / "html", tmp_path / "nowhere")


def test_an_unknown_mark_is_named(tmp_path):
    root = small_book(tmp_path / "root", "# A page\n\n<!-- made by the build: stats -->\n")
    with pytest.raises(ValueError, match=r"intro\.md, line 3: .* asked for 'stats'"):
        stage_book(root, tmp_path / "stage")


def test_a_failed_build_leaves_the_earlier_site(tmp_path):
    root = small_book(tmp_path / "root", "# A page\n\n[lost](nowhere.md)\n")
    html = tmp_path / "out" / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the earlier site")
    with pytest.raises(SiteError, match=r"(?s)a warning is an error.*nowhere\.md"):
        build_site(root, html, quiet=True)
    assert (html / "index.html").read_text() == "the earlier site"


def test_a_build_killed_while_replacing_is_undone_by_the_next(tmp_path):
    waiting = tmp_path / "out" / ".html.earlier"
    waiting.mkdir(parents=True)
    (waiting / "index.html").write_text("the earlier site")
    with pytest.raises(FileNotFoundError):
        build_site(tmp_path, tmp_path / "out" / "html", quiet=True)
    assert (tmp_path / "out" / "html" / "index.html").read_text() == "the earlier site"


# ---- the extension ----------------------------------------------------------------------------


def test_repairs_are_idempotent(root, site):
    spec = importlib.util.spec_from_file_location(
        "mcbook_site", root / "book" / "_ext" / "mcbook_site.py"
    )
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    before = '<table><tr><th></th></tr></table><link rel="preload" as="font" crossorigin href="x">'
    after = extension.repair(before)
    assert after == "<table><tr><td></td></tr></table>"
    for page in pages(site).values():
        text = page.read_text(encoding="utf-8")
        assert extension.repair(text) == text, page.name
