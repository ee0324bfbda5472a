"""What the build writes into the API pages.

A page asks for modules by name; a package stands for everything in it.  One
page asks for `rest`: what no other page names.  So a new module has a place
on the day it is written, and moving it to a better page is one word there.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import mcbook
from mcbook.site_pages import markdown_table

__all__ = ["api_section", "modules", "names_section"]


def modules() -> dict[str, Path]:
    """Every public module and package of mcbook.

    Returns:
        Their files by name, sorted by name; names with a leading underscore,
        `__main__` among them, are left out.
    """
    package = Path(mcbook.__file__).parent
    found = {}
    for file in package.rglob("*.py"):
        place = file.parent if file.name == "__init__.py" else file.with_suffix("")
        parts = ("mcbook", *place.relative_to(package).parts)
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = file
    return dict(sorted(found.items()))


def select(wanted: Sequence[str], named: Sequence[str]) -> dict[str, Path]:
    """The modules that a page shows.

    Args:
        wanted: modules and packages, in the order of the page; `rest` for
            what `named` leaves.
        named: everything that any page asks for.

    Returns:
        Files by module name.  What does not exist (yet) is left out.
    """
    everything = {name: file for name, file in modules().items() if name != "mcbook"}
    chosen: dict[str, Path] = {}
    for word in wanted:
        if word == "rest":
            chosen |= {
                name: file
                for name, file in everything.items()
                if not any(_within(name, other) for other in named)
            }
        else:
            chosen |= {name: file for name, file in everything.items() if _within(name, word)}
    return chosen


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def api_section(wanted: Sequence[str], named: Sequence[str]) -> str:
    """The reference of some modules, made from their docstrings.

    Args:
        wanted: the modules and packages of this page, or `rest`.
        named: everything that any page asks for.

    Returns:
        Markdown with a section for each module that has something to show.
    """
    sections = []
    for name, file in select(wanted, named).items():
        is_package = file.name == "__init__.py"
        if is_package and not _docstring(file):
            continue
        # A package repeats the names of its modules: once is enough.
        lines = [f".. automodule:: {name}"] + ([] if is_package else ["   :members:"])
        sections.append(
            f"({_anchor(name)})=\n## {name.removeprefix('mcbook.')}\n\n"
            "```{eval-rst}\n" + "\n".join(lines) + "\n```\n"
        )
    return "\n".join(sections) if sections else "Nothing here yet.\n"


def names_section(
    pages: Mapping[Path, tuple[str, Sequence[str]]],
    here: Path,
) -> str:
    """The names that `import mcbook as mc` gives, by area.

    Args:
        pages: for each API page its title and the modules it asks for.
        here: the folder of the page to write, for the links.

    Returns:
        Markdown: a section for each page that has public names.
    """
    named = [word for _, words in pages.values() for word in words]
    exported = _exported()
    sections = []
    for page, (title, words) in pages.items():
        chosen = select(words, named)
        rows = []
        for name, (module, kind, summary) in exported.items():
            if module not in chosen:
                continue
            if kind == "module":
                link = f"[`mc.{name}`](#{_anchor(module)})"
            elif name in _documented(chosen[module]):
                link = f"{{py:obj}}`mc.{name} <{module}.{name}>`"
            else:
                link = f"`mc.{name}`"
            rows.append((link, summary))
        link = Path(os.path.relpath(page, here)).as_posix()
        intro = f"## [{title}]({link})\n\n"
        if rows:
            sections.append(intro + markdown_table(("Name", "What it is"), rows))
        else:
            listed = ", ".join(f"`{name}`" for name in chosen) or "none yet"
            sections.append(intro + f"Modules: {listed}.")
    return "\n\n".join(sections) + "\n"


def _exported() -> dict[str, tuple[str, str, str]]:
    """The package's public names: their module, their kind, their first line."""
    found = {}
    for name in sorted(getattr(mcbook, "__all__", ()), key=str.lower):
        value = getattr(mcbook, name)
        if inspect.ismodule(value):
            found[name] = (value.__name__, "module", _first_line(value.__doc__))
        elif inspect.isclass(value) or inspect.isroutine(value):
            found[name] = (value.__module__, "object", _first_line(inspect.getdoc(value)))
    return found


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0].replace("``", "`")


def _documented(file: Path) -> Iterable[str]:
    """The names that a module's reference shows: its `__all__`, else what it defines."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return set(ast.literal_eval(node.value))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            defined.append(node.name)
    return set(defined)


def _docstring(file: Path) -> str | None:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def _anchor(module: str) -> str:
    return "module-" + module.replace(".", "-").replace("_", "-")
