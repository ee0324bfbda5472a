"""Executing one notebook, in this very environment, without leaving traces."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UnknownNameError

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["ChapterError", "check_parameters", "execute"]

# No bars on pages: their times change from run to run.
_ENVIRONMENT = {
    "MCBOOK_PROGRESS": "0",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


class ChapterError(RuntimeError):
    """A chapter that could not be run, or not be committed as it is."""


def _kernel_manager() -> type[Any]:
    """A kernel manager that knows one kernel: the Python running this.

    A "python3" kernel installed for the user or the machine would run the
    chapters with other versions, and say nothing.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            spec = get_kernel_dict()
            # What the kernel itself has to say would only break the progress bar.
            spec["argv"] = [sys.executable, *spec["argv"][1:], "--log-level=50"]
            return KernelSpec(**spec, env=_ENVIRONMENT)

    return ThisPython


def check_parameters(notebook: NotebookNode, name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a chapter does not have.

    Args:
        notebook: the chapter.
        name: its name, for the error.
        parameters: what is to be set.

    Raises:
        UnknownNameError: one of them is not set in the cell tagged
            `parameters`.
    """
    import papermill

    if not parameters:
        return
    known = papermill.inspect_notebook(notebook)
    for parameter in parameters:
        if parameter not in known:
            raise UnknownNameError(f"parameter of chapter {name}", parameter, known)


def execute(
    notebook: NotebookNode,
    name: str,
    cwd: Path,
    draft: Path,
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> NotebookNode:
    """Run a notebook from its first cell to its last.

    Args:
        notebook: what to run; it is not changed.
        name: the chapter's name, for the progress bar and errors.
        cwd: the folder to run in.
        draft: where the notebook is kept while it runs; it stays there, with
            its outputs so far, when a cell fails.
        parameters: values for the cell tagged `parameters`.
        progress: whether to show a bar over its cells.

    Returns:
        The executed notebook, as papermill leaves it.

    Raises:
        ChapterError: a cell failed, or the kernel died.
        UnknownNameError: the chapter has no such parameter.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    parameters = dict(parameters or {})
    check_parameters(notebook, name, parameters)
    draft.parent.mkdir(parents=True, exist_ok=True)
    bar = {"desc": name, "leave": False, "file": sys.stderr}
    try:
        done = papermill.execute_notebook(
            notebook,
            # papermill fills {fields} in file names; braces in a folder's name are none
            str(draft).replace("{", "{{").replace("}", "}}"),
            parameters=parameters,
            kernel_name="python3",
            kernel_manager_class=_kernel_manager(),
            cwd=str(cwd),
            progress_bar=bar if progress else False,
        )
    except PapermillExecutionError as problem:
        raise ChapterError(_failure(notebook, name, draft, parameters, problem)) from None
    except DeadKernelError:
        raise ChapterError(
            f"chapter {name}: its kernel died (out of memory, or killed); "
            f"what ran until then is in {draft}"
        ) from None
    draft.unlink(missing_ok=True)
    return done


def _failure(
    notebook: NotebookNode, name: str, draft: Path, parameters: Mapping[str, Any], problem: Any
) -> str:
    # papermill counts the cell it injects; the reader counts those of the source.
    index = problem.cell_index
    tags = [cell.metadata.get("tags", ()) for cell in notebook.cells]
    at = next((i for i, one in enumerate(tags) if "parameters" in one), -1)
    number = index if parameters and index > at + 1 else index + 1
    first = next((line for line in problem.source.splitlines() if line.strip()), "")
    return (
        f"chapter {name}, cell {number} ({first.strip()!r}) raised "
        f"{problem.ename}: {problem.evalue}; the outputs and the traceback are in {draft}"
    )
