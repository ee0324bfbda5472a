"""One way to write an executed notebook, so that a re-run gives the same bytes.

What differs from run to run without meaning anything is left out (times,
random ids, widget state), and what remains has one order and one spelling.
"""

from __future__ import annotations

import copy
import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["canonical", "cell_id", "problems", "to_text"]

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "pygments_lexer": "ipython3",
}
_RUN_METADATA = ("ExecuteTime", "execution", "papermill", "trusted")
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# What a page without a kernel can show in a widget's place.
_STILL = ("text/html", "image/svg+xml", "image/png")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


def cell_id(index: int, cell_type: str, source: str) -> str:
    """The id of a cell: from its place and its content alone.

    Args:
        index: its place, from 0.
        cell_type: "code" or "markdown".
        source: its text.

    Returns:
        Letters, digits and "-".
    """
    digest = hashlib.sha256(f"{cell_type}\n{source}".encode()).hexdigest()
    return f"{index:03d}-{digest[:8]}"


def canonical(notebook: NotebookNode) -> NotebookNode:
    """The canonical form of a notebook; the form of a canonical one is itself.

    Args:
        notebook: as written by anything; it is not changed.

    Returns:
        A new notebook: cell ids from place and source, code cells counted
        from 1, neighbouring outputs to one stream merged, and without what
        changes from run to run: times, widget state, live widgets beside a
        still picture, what was written to stderr, tracebacks.
    """
    result = copy.deepcopy(notebook)
    result.metadata = type(result.metadata)(
        {"kernelspec": dict(KERNELSPEC), "language_info": dict(LANGUAGE)}
    )
    result.nbformat, result.nbformat_minor = 4, 5
    count = 0
    for index, cell in enumerate(result.cells):
        cell.id = cell_id(index, cell.cell_type, cell.source)
        for key in _RUN_METADATA:
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = _outputs(cell.outputs, count)
    return result


def _outputs(outputs: list[NotebookNode], count: int) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            # Progress and warnings: made of times, or of one machine's troubles.
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif output.output_type == "error":
            output.traceback = [f"{output.ename}: {output.evalue}"]
        else:
            if output.output_type == "execute_result":
                output.execution_count = count
            if any(mime in output.data for mime in _STILL):
                output.data.pop(_WIDGET_VIEW, None)
        kept.append(output)
    return kept


def problems(notebook: NotebookNode) -> list[str]:
    """What keeps a notebook from being committed.

    Args:
        notebook: in canonical form.

    Returns:
        A sentence for each thing that a re-run would change, that a page
        without a kernel cannot show, or that failed.
    """
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                if "raises-exception" not in cell.metadata.get("tags", ()):
                    found.append(f"cell {number} raised {output.ename}: {output.evalue}")
                continue
            if output.get("data", {}).get(_WIDGET_VIEW) is not None:
                found.append(
                    f"cell {number} shows a widget that is nothing without a kernel; "
                    "give its output text/html or a picture too"
                )
            address = _ADDRESS.search(_shown(output))
            if address:
                found.append(
                    f"cell {number} shows a memory address ({address.group()}), different in "
                    "every run; give the object a __repr__ of its own"
                )
    return found


def _shown(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    texts = (output.data.get(mime, "") for mime in ("text/plain", "text/html", "text/markdown"))
    return "\n".join(map(str, texts))


def to_text(notebook: NotebookNode) -> str:
    """The one spelling of a notebook as a file.

    Args:
        notebook: in canonical form.

    Returns:
        The JSON to write, ending in a newline.

    Raises:
        nbformat.ValidationError: it is no notebook.
    """
    import nbformat

    nbformat.validate(notebook)
    options: dict[str, Any] = {"sort_keys": True, "indent": 1, "ensure_ascii": False}
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT, **options).rstrip("\n") + "\n"
