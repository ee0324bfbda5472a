"""Plots of tables and matrices: their numbers in words, one scale, and what they refuse."""

from __future__ import annotations

import re

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
            plot_points(measured(), "gamma", "R", group="method").html(),
            plot_matrices({"a": np.eye(3), "b": -np.eye(3)}).html(),
        ]
        for _ in range(2)
    )
    assert first == second
