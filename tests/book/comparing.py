"""Two runs of one notebook compared by nbval's rules, without another run."""

from __future__ import annotations

import copy
from difflib import unified_diff
from types import SimpleNamespace
from typing import Any

from nbformat import NotebookNode
from nbval.plugin import (
    IPyNbCell,
    coalesce_streams,
    find_comment_markers,
    find_metadata_tags,
    nocolors,
)

__all__ = ["Comparison", "code_cells", "compare_runs"]

# What nbval leaves out: the same in no two runs, or pictures, which differ by a shade.
LEFT_OUT = (
    "metadata",
    "traceback",
    "prompt_number",
    "output_type",
    "name",
    "execution_count",
    "application/vnd.jupyter.widget-view+json",
    "image/png",
    "image/jpeg",
)


class Comparison(SimpleNamespace):
    """What a comparison found.

    Attributes:
        compared: how many cells were compared.
        differences: a text for each cell whose outputs differ.
    """

    compared: int
    differences: list[str]


def code_cells(notebook: NotebookNode, without: tuple[str, ...] = ()) -> list[NotebookNode]:
    """The code cells, without those that have one of these tags."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and not set(without) & set(cell.metadata.get("tags", ()))
    ]


def compare_runs(
    found: list[NotebookNode], expected: list[NotebookNode], everything: bool
) -> Comparison:
    """Compare the outputs of two runs, cell by cell, as nbval would.

    Args:
        found: the code cells of one run.
        expected: the code cells of the other, whose tags and comments count.
        everything: whether to compare the cells that say nothing about it
            (`--nbval`), or only those that ask for it (`--nbval-lax`).

    Returns:
        What differs.
    """
    assert len(found) == len(expected), f"{len(found)} code cells, expected {len(expected)}"
    result = Comparison(compared=0, differences=[])
    for number, (here, there) in enumerate(zip(found, expected, strict=True)):
        options = dict(find_metadata_tags(there.metadata))
        options |= dict(find_comment_markers(there.source))
        if options.get("skip") or not options.get("check", everything):
            continue
        result.compared += 1
        complaint = _complaint(here.outputs, there.outputs)
        if complaint:
            result.differences.append(f"code cell {number}:\n{there.source}\n{complaint}")
    return result


def _complaint(found: list[NotebookNode], expected: list[NotebookNode]) -> str:
    said: list[str] = []

    def show_difference(key: str, left: Any, right: Any) -> None:
        lines = (str(left).splitlines(), str(right).splitlines())
        said.extend([f"{key}:", *unified_diff(*lines, "expected", "found", lineterm="")])

    # nbval compares in a method of its test item; it needs no more of one than this.
    item = SimpleNamespace(
        parent=SimpleNamespace(skip_compare=LEFT_OUT),
        colors=nocolors,
        sanitize=lambda value: value,
        format_output_compare=show_difference,
    )
    outputs = (coalesce_streams(copy.deepcopy(one)) for one in (found, expected))
    if IPyNbCell.compare_outputs(item, *outputs):
        return ""
    return "\n".join([*item.comparison_traceback, *said])
