"""A book of a few lines, to try the machinery on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mcbook.checkout import Checkout

URL = "https://example.org/someone/a-book"
HEAD = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""
CHAPTER = (
    HEAD
    + """\
# A tiny chapter

Some prose.

```{code-cell} ipython3
:tags: [colab-setup, remove-cell]
```

```{code-cell} ipython3
:tags: [parameters]
scale = "default"
seed = 0
```

```{code-cell} ipython3
print("at scale", scale)
print("✓ holds: two and two is four")
```

More prose.

```{code-cell} ipython3
seed + 1
```
"""
)


def make_checkout(root: Path, chapters: Mapping[str, str] | None = None) -> Checkout:
    """A checkout with these chapters (`{"01_tiny": CHAPTER}` by default) and nothing else."""
    sources = root / "book" / "src"
    sources.mkdir(parents=True)
    (root / "mcbook").mkdir()
    (root / "mcbook" / "__init__.py").write_text("")
    (root / "study").mkdir()
    (root / "pyproject.toml").write_text('[project]\nname = "mcbook"\nversion = "9.8.7"\n')
    (root / "_config.yml").write_text(f"title: A book\nrepository:\n  url: {URL}\n")
    for name, text in (chapters or {"01_tiny": CHAPTER}).items():
        (sources / f"{name}.md").write_text(text, encoding="utf-8")
    return Checkout(root)


def code(*cells: str) -> str:
    """The text of a chapter with these code cells."""
    blocks = (f"```{{code-cell}} ipython3\n{cell}\n```\n" for cell in cells)
    return HEAD + "# A chapter\n\n" + "\n".join(blocks)
