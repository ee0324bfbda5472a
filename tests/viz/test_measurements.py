"""Plots of tables and matrices: their numbers in words, one scale, and what they refuse."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from mcbook.analysis.statistics import interval
from mcbook.viz.figure import Figure
from mcbook.viz.plots import plot_barriers, plot_lines, plot_matrices, plot_points
from mcbook.viz.wording import number


def texts(figure: Figure) -> list[str]:
    """What is written in the drawing."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", figure.html())


def measured(pairs: int = 3) -> pd.DataFrame:
    """Two methods at gamma = 0, 0.5 and 1, several pairs each."""
    rows = [
        {"method": method, "gamma": gamma, "pair": pair, "R": height * gamma + 0.01 * pair}
        for method, height in (("naive", 0.1), ("matched", 0.6))
        for gamma in (0.0, 0.5, 1.0)
        for pair in range(pairs)
    ]
    return pd.DataFrame(rows)


def test_lines_say_mean_and_interval():
    figure = plot_lines(measured(), x="gamma", y="R", group="method", x_label="γ")
    mean, low, high = interval([0.6, 0.61, 0.62])
    last = figure.table.iloc[-1]
    assert tuple(last[["mean", "low", "high"]]) == pytest.approx((mean, low, high))
    assert list(figure.table.columns) == ["method", "gamma", "pairs", "mean", "low", "high"]
    said = f"{number(mean)} at 1 (interval {number(low)} to {number(high)})"
    assert "matched: R by γ: " in figure.alt
    assert said in figure.alt
    assert "the mean over 3 pairs" in figure.caption
    assert {"naive", "matched", "γ", "R"} <= set(texts(figure))


def test_single_measurements_have_no_band():
    figure = plot_lines(measured(1), x="gamma", y="R", group="method")
    assert figure.caption is None
    assert "interval" not in figure.alt
    assert list(figure.table.columns) == ["method", "gamma", "R"]
    assert "fill-opacity" not in figure.html()


def test_a_line_without_groups_tells_its_highest_point():
    table = pd.DataFrame({"t": [0.0, 0.5, 1.0], "loss": [0.1, 1.2, 0.2]})
    figure = plot_lines(table, x="t", y="loss")
    assert figure.alt == "Loss by t: 0.10 at 0; 1.20 at 0.5; 0.20 at 1."


def test_panels_have_one_scale_and_a_title_each():
    rows = [
        {"layer": layer, "i": i, "s": height / i}
        for layer, height in (("first", 1.0), ("second", 7.0))
        for i in range(1, 30)
    ]
    figure = plot_lines(pd.DataFrame(rows), x="i", y="s", panel="layer", log_x=True)
    assert {"First: s", "Second: s"} <= set(texts(figure))
    assert figure.html().count("<svg") == 2
    # the largest tick of the second panel stands in the first, too
    ticks = [text for text in texts(figure) if text == "6"]
    assert len(ticks) == 2
    # plain numbers on a logarithmic axis
    assert texts(figure).count("10") == 2
    assert "first: s by i: 1.00 at 1; 0.034 at 29." in figure.alt


def over_layers(names: list[str], pairs: int = 1, panels: tuple[str, ...] = ("",)) -> pd.DataFrame:
    """Two methods over the names, halving from each to the next."""
    rows = [
        {"panel": panel, "method": method, "layer": name, "gap": height * 0.5**i + 0.01 * pair}
        for panel in panels
        for method, height in (("naive", 0.1), ("matched", 0.6))
        for i, name in enumerate(names)
        for pair in range(pairs)
    ]
    return pd.DataFrame(rows)


MLP = ["layer 1 before ReLU", "layer 1", "layer 2 before ReLU", "layer 2", "logits"]


def test_lines_over_names_keep_their_order_and_say_them():
    names = ["stem", "block", "a", "head"]
    figure = plot_lines(over_layers(names, pairs=3), x="layer", y="gap", group="method")
    assert list(figure.table.columns) == ["method", "layer", "pairs", "mean", "low", "high"]
    assert figure.table["layer"].tolist() == names * 2
    mean, low, high = interval([0.6, 0.61, 0.62])
    first = figure.table.iloc[4]
    assert tuple(first[["mean", "low", "high"]]) == pytest.approx((mean, low, high))
    assert f"matched: gap by layer: {number(mean)} at stem (interval" in figure.alt
    assert " at head (interval" in figure.alt
    assert "the mean over 3 pairs" in figure.caption
    written = texts(figure)
    assert [text for text in written if text in names] == names
    (axes,) = figure._panels[0].axes
    for drawn in axes.get_lines():
        assert drawn.get_xdata().tolist() == [0, 1, 2, 3]
        assert drawn.get_markevery() is None  # at every point
        assert drawn.get_marker() not in ("None", "", None)
    # bands as with numbers
    assert len(axes.collections) == 2


def test_one_line_over_names_has_its_markers_and_gaps_are_bridged():
    table = over_layers(["b", "a", "c"])
    alone = plot_lines(table[table["method"] == "naive"], x="layer", y="gap", log_y=True)
    assert alone.alt == "Gap by layer: 0.10 at b; 0.025 at c."
    assert alone._panels[0].axes[0].get_lines()[0].get_marker() == "o"
    assert alone._panels[0].axes[0].get_yscale() == "log"
    assert list(alone.table.columns) == ["layer", "gap"]
    tiny = table[table["method"] == "naive"].assign(gap=[3e-6, 2e-5, 0.5])
    said = plot_lines(tiny, x="layer", y="gap", log_y=True).alt
    assert said == "Gap by layer: 3e−06 at b; 0.50 at c."
    assert plot_lines(tiny, x="layer", y="gap").alt == "Gap by layer: 0.00 at b; 0.50 at c."
    few = table[(table["method"] == "naive") | (table["layer"] != "a")]
    lines = plot_lines(few, x="layer", y="gap", group="method")._panels[0].axes[0].get_lines()
    assert [line.get_xdata().tolist() for line in lines] == [[0, 1, 2], [0, 2]]


def test_a_categorical_column_and_a_single_name_are_drawn():
    table = over_layers(["b", "a"])
    table["layer"] = table["layer"].astype("category")
    figure = plot_lines(table, x="layer", y="gap", group="method")
    assert figure.table["layer"].tolist() == ["b", "a", "b", "a"]
    one = plot_lines(over_layers(["only"]), x="layer", y="gap", group="method")
    assert "naive: gap by layer: 0.10 at only." in one.alt


def test_panels_show_their_own_names_in_the_order_of_the_table():
    table = pd.DataFrame(
        {
            "net": ["x", "x", "x", "y", "y"],
            "layer": ["c", "b", "a", "a", "c"],
            "gap": [0.1, 0.2, 0.3, 0.4, 0.5],
        }
    )
    figure = plot_lines(table, x="layer", y="gap", panel="net")
    labels = [
        [label.get_text() for label in panel.axes[0].get_xticklabels()] for panel in figure._panels
    ]
    assert labels == [["c", "b", "a"], ["c", "a"]]
    assert figure.table["layer"].tolist() == ["c", "b", "a", "c", "a"]
    limits = {panel.axes[0].get_ylim() for panel in figure._panels}
    assert len(limits) == 1


VGG = [f"features.{i}" for i in range(13)] + [f"classifier.{i}" for i in (0, 3, 6)]
RESNET = [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
LONG = ["a.very.long.module.name." * 3 + f"conv{i}" for i in range(9)]


@pytest.mark.parametrize("panels", [None, ("x", "y")])
@pytest.mark.parametrize(
    "names",
    [MLP, VGG[:10], VGG, ["conv1", *RESNET, "fc"], LONG, [f"block.{i}" for i in range(60)]],
    ids=["mlp", "ten", "vgg", "resnet", "long", "sixty"],
)
def test_names_at_the_axis_do_not_run_into_one_another(names, panels):
    table = over_layers(names, panels=panels or ("",))
    figure = plot_lines(
        table, x="layer", y="gap", group="method", panel="panel" if panels else None
    )
    for panel in figure._panels:
        (axes,) = panel.axes
        panel.canvas.draw()
        shown = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = [label.get_window_extent() for label in shown]
        assert len(axes.get_xticks()) == len(names)
        if len(names) <= 20:
            assert len(shown) == len(names)
        for (one, box), (other, following) in pairwise(zip(shown, boxes, strict=True)):
            angle = one.get_rotation()
            if angle == 0:
                assert box.x1 < following.x0
                continue
            # slanted lines are as far apart as their height, at least
            places = [axes.transData.transform((x.get_position()[0], 0))[0] for x in (one, other)]
            height = one.get_fontsize() * figure._panels[0].dpi / 72
            assert (places[1] - places[0]) * np.sin(np.radians(angle)) >= 1.05 * height
        for box in boxes:
            assert box.x0 > -1
            assert box.y0 > -1
        # what the names take is not taken from the lines
        assert axes.get_window_extent().height > 105


def test_wrapped_names_stay_level():
    figure = plot_lines(over_layers(MLP), x="layer", y="gap", group="method")
    assert {"layer 1", "before ReLU", "logits"} <= set(texts(figure))
    labels = figure._panels[0].axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {0}


def test_points_say_their_ranges_and_their_order():
    table = pd.DataFrame(
        {"r": [0.1, 0.2, 0.6, 0.7], "barrier": [1.0, 0.9, 0.02, 0.01], "data": ["a", "a", "b", "b"]}
    )
    figure = plot_points(table, x="r", y="barrier", group="data", log_y=True)
    assert "a: 2 marks, r 0.10 to 0.20, barrier 0.90 to 1.00." in figure.alt
    assert "Rank correlation of all marks: −1.00." in figure.alt
    assert list(figure.table.columns) == ["data", "r", "barrier"]
    assert {"0.1", "1"} <= set(texts(figure))
    alone = plot_points(table[:2], x="r", y="barrier")
    assert "orrelation" not in alone.alt
    assert "both are equal" not in alone.alt
    with_line = plot_points(table, x="r", y="barrier", diagonal=True)
    assert "A line shows where both are equal." in with_line.alt
    (line,) = [one for one in with_line._panels[0].axes[0].lines if len(set(one.get_xdata())) == 2]
    assert list(line.get_xdata()) == list(line.get_ydata()) == [0.01, 1.0]


def test_matrices_have_one_scale_and_show_signs():
    before = np.array([[0.1, -0.2], [0.001, 0.1]])
    figure = plot_matrices({"before": before, "after": torch.eye(2)}, "j", "i")
    assert "the largest is 1.00" in figure.caption
    shared = "entries from {} to {}, on the diagonal {} on average"
    assert "before: 2 × 2, " + shared.format("−0.20", "0.10", "0.10") in figure.alt
    assert "after: 2 × 2, " + shared.format("0.00", "1.00", "1.00") in figure.alt
    assert {"before", "after", "i", "j"} <= set(texts(figure))
    assert figure.table.shape == (8, 4)
    # before: two full squares and a hollow one, the smallest entry is left out; after: two full
    drawing = figure.html().split('class="mc-still"')[0]
    assert drawing.count('style="fill:var(--mc-blue') == 4
    assert drawing.count('style="fill:none;stroke:var(--mc-vermillion') == 1
    wide = plot_matrices({"one": np.ones((2, 3))})
    assert "diagonal" not in wide.alt


def test_many_names_are_wrapped_and_long_legends_take_several_lines():
    names = ["as trained", "straight through, from A", "straight through, random", "matching many"]
    table = pd.DataFrame(
        {"method": names * 4, "barrier": 0.1, "data": np.repeat(list("abcd"), 4).tolist()}
    )
    figure = plot_barriers(table, x="method", group="data")
    assert {"as trained", "straight", "through, from", "matching many"} <= set(texts(figure))
    assert "straight through, from A" in figure.alt
    few = plot_barriers(table[table["method"] == names[1]], x="method", group="data")
    assert names[1] in texts(few)
    # every name of the legend begins in the left half of the drawing, so that it ends inside
    long = table.assign(data=[f"a rather long name, {one}" for one in table["data"]])
    drawing = plot_barriers(long, x="method", group="data").html().split('class="mc-still"')[0]
    places = re.findall(r'x="([\d.]+)"[^>]*>a rather long name', drawing)
    assert len(places) == 4
    assert max(map(float, places)) < 250


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_lines(measured(), "gamma", "S"), "columns .*'S'.*found method, gamma"),
        (lambda: plot_lines(measured()[:0], "gamma", "R"), "found no rows"),
        (lambda: plot_lines(measured(), "gamma", "R", log_x=True), "'gamma' above zero .* found 0"),
        (lambda: plot_lines(measured(), "gamma", "R", panel="layer"), "columns .*'layer'"),
        (lambda: plot_lines(measured().assign(R=np.nan), "gamma", "R"), "finite .*'R'"),
        (
            lambda: plot_lines(over_layers(["a", "b"]), "layer", "gap", log_x=True),
            "found names: 'a'",
        ),
        (
            lambda: plot_lines(over_layers(["a"]).assign(layer=["a", None]), "layer", "gap"),
            "numbers or names in column 'layer', found both: (None|nan)",
        ),
        (
            lambda: plot_lines(over_layers(["a"]).assign(gap=0), "layer", "gap", log_y=True),
            "'gap' above zero",
        ),
        (lambda: plot_points(measured(), "gamma", "R", group="data"), "columns .*'data'"),
        (lambda: plot_points(measured().assign(R=-1), "gamma", "R", log_y=True), "found -1"),
        (lambda: plot_matrices({}), "at least one matrix"),
        (lambda: plot_matrices({"a": np.ones(3)}), r"found shape \[3\] for 'a'"),
        (lambda: plot_matrices({"a": np.ones((2, 41))}), r"1 to 40 .*\[2, 41\]"),
        (lambda: plot_matrices({"a": np.full((2, 2), np.inf)}), "finite entries"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_same_data_make_the_same_bytes():
    first, second = (
        [
            plot_lines(measured(), "gamma", "R", group="method").html(),
            plot_lines(over_layers(VGG), "layer", "gap", group="method").html(),
            plot_points(measured(), "gamma", "R", group="method").html(),
            plot_matrices({"a": np.eye(3), "b": -np.eye(3)}).html(),
        ]
        for _ in range(2)
    )
    assert first == second
