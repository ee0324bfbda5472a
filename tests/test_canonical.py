import copy
import json

import nbformat
import pytest

from mcbook.canonical import canonical, cell_id, problems, to_text
from mcbook.verdicts import read_verdicts

v4 = nbformat.v4
VIEW = "application/vnd.jupyter.widget-view+json"


def notebook(*outputs, tags=None):
    """A notebook as it comes from a run, with all that a run leaves in it."""
    cell = v4.new_code_cell(
        "f()", outputs=[nbformat.from_dict(one) for one in outputs], execution_count=17
    )
    cell.metadata = nbformat.from_dict(
        {
            "papermill": {"duration": 0.3, "status": "completed"},
            "execution": {"iopub.execute_input": "2026-01-01T00:00:00"},
            "tags": tags or [],
        }
    )
    made = v4.new_notebook(cells=[v4.new_markdown_cell("# A title"), cell])
    made.metadata = nbformat.from_dict(
        {
            "papermill": {"duration": 3.1},
            "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"a": 1}}},
            "kernelspec": {"name": "other", "display_name": "Mine", "language": "python"},
            "language_info": {"name": "python", "version": "3.12.1"},
            "jupytext": {"formats": "md"},
        }
    )
    return made


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def display(**data):
    renamed = {key.replace("_", "/"): value for key, value in data.items()}
    return {"output_type": "display_data", "data": renamed, "metadata": {}}


def test_leaves_out_what_changes_from_run_to_run():
    text = to_text(canonical(notebook(stream("a\n"))))
    for word in ("papermill", "iopub", "widgets", "Mine", "version", "3.12.1", "jupytext", "17"):
        assert word not in text
    content = json.loads(text)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["cells"][1]["execution_count"] == 1
    assert "tags" not in content["cells"][1]["metadata"]
    assert content["nbformat"] == 4
    assert content["nbformat_minor"] == 5


def test_is_the_form_of_itself_and_changes_nothing_given():
    given = notebook(stream("a"), stream("b"), stream("c", "stderr"), tags=["kept"])
    before = copy.deepcopy(given)
    once = canonical(given)
    assert given == before
    assert to_text(canonical(once)) == to_text(once)
    again = nbformat.reads(to_text(once), as_version=4)
    assert to_text(canonical(again)) == to_text(once)
    assert once.cells[1].metadata == {"tags": ["kept"]}


def test_ids_come_from_place_and_content():
    first, second = canonical(notebook()), canonical(notebook())
    assert [c.id for c in first.cells] == [c.id for c in second.cells]
    assert cell_id(0, "code", "a") != cell_id(0, "code", "b")
    assert cell_id(0, "code", "a") != cell_id(1, "code", "a")
    assert cell_id(0, "code", "a") != cell_id(0, "markdown", "a")


def test_streams_are_merged_and_stderr_is_left_out():
    made = canonical(
        notebook(
            stream("a\n"),
            stream("progress 3.1 s", "stderr"),
            stream("b\n"),
            display(text_plain="picture"),
            stream("✓ holds: it\n"),
        )
    )
    outputs = made.cells[1].outputs
    assert [one.output_type for one in outputs] == ["stream", "display_data", "stream"]
    assert outputs[0].text == "a\nb\n"
    assert len(read_verdicts(made)) == 1


def test_a_live_widget_beside_a_still_picture_goes():
    both = {"text/html": "<p>", VIEW: {"model_id": "random"}, "text/plain": "Slider()"}
    made = canonical(notebook({"output_type": "display_data", "data": both, "metadata": {}}))
    assert set(made.cells[1].outputs[0].data) == {"text/html", "text/plain"}
    assert problems(made) == []


def test_a_widget_without_a_picture_is_a_problem():
    alone = {VIEW: {"model_id": "random"}, "text/plain": "Slider()"}
    made = canonical(notebook({"output_type": "display_data", "data": alone, "metadata": {}}))
    (problem,) = problems(made)
    assert "cell 2 shows a widget that is nothing without a kernel" in problem


@pytest.mark.parametrize(
    "output",
    [
        stream("<function f at 0x7f5cb0a1e3a0>\n"),
        display(text_plain="<Thing object at 0x7f5cb0a1e3a0>"),
        display(text_html="<p>Thing at 0x7f5cb0a1e3a0</p>"),
    ],
)
def test_a_memory_address_is_a_problem(output):
    (problem,) = problems(canonical(notebook(output)))
    assert "cell 2 shows a memory address (at 0x7f5cb0a1e3a0)" in problem


def test_an_error_is_a_problem_unless_the_cell_is_meant_to_raise():
    error = {
        "output_type": "error",
        "ename": "ValueError",
        "evalue": "no",
        "traceback": ["File /home/someone/a.py", "..."],
    }
    made = canonical(notebook(error))
    assert problems(made) == ["cell 2 raised ValueError: no"]
    meant = canonical(notebook(error, tags=["raises-exception"]))
    assert problems(meant) == []
    assert "someone" not in to_text(meant)


def test_results_count_with_their_cell():
    result = {
        "output_type": "execute_result",
        "execution_count": 17,
        "data": {"text/plain": "3"},
        "metadata": {},
    }
    assert canonical(notebook(result)).cells[1].outputs[0].execution_count == 1
