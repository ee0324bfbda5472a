"""Walks and spheres on the printed page: their numbers in words, and what they refuse."""

from __future__ import annotations

import copy
import re

import numpy as np
import pandas as pd
import pytest

import mcbook as mc
from mcbook.viz.figure import Figure
from mcbook.viz.plots import plot_spheres, plot_walk
from mcbook.viz.walk_slider import percent_left
from tests.viz.slider_cases import digits, trained
from tests.viz.test_walk_slider import WIDTHS, deep, profile, to_origin, walk


def texts(figure: Figure) -> list[str]:
    """What is written in the drawing."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", figure.html())


def axes_of(figure: Figure) -> list:
    """Matplotlib's axes of the panels."""
    return [panel.axes[0] for panel in figure._panels]


# ---------------------------------------------------------------- a walk


def test_a_walk_says_its_numbers():
    figure, path = plot_walk(walk(), profile()), walk()
    begins = "linear1 from tick 1, linear2 from tick 9 and output from tick 17"
    assert figure.alt.startswith(f"A walk of 32 ticks in 3 stages. Moving: {begins}. ")
    apart = path.distances**2
    left = {
        name: np.sqrt(
            (apart[f"{name}.weight"] + apart[f"{name}.bias"]).iloc[-1]
            / (apart[f"{name}.weight"] + apart[f"{name}.bias"]).iloc[0]
        )
        for name in ("linear1", "linear2", "output")
    }
    low, high = min(left, key=left.get), max(left, key=left.get)
    assert (
        f"last tick: {percent_left(left[low])} ({low}) to {percent_left(left[high])} ({high})"
        in (figure.alt)
    )
    before, after = path.log["loss_before"].max(), path.log["loss"].iloc[1:].max()
    assert f"before retraining at most {before:.3g}, after it at most {after:.3g}" in figure.alt
    recorded = path.log["t"].dropna()
    table = profile().table
    whole = max(table["train_loss"][(table["t"] - t).abs().idxmin()] for t in recorded)
    assert f"on all training images at most {whole:.3g}; threshold 0.9." in figure.alt
    assert "Threshold: 0.9. Vertical lines: a stage begins." in figure.caption
    assert "highest of" not in figure.caption
    assert {"linear1", "linear2", "output", "before", "after", "all images"} <= set(texts(figure))
    assert len(figure.html()) < 60_000


def test_the_lines_are_the_numbers():
    shares, losses = axes_of(plot_walk(walk(), profile()))
    lines = {line.get_label(): line for line in shares.get_lines()}
    apart = walk().distances[["linear2.weight", "linear2.bias"]].to_numpy()
    d = np.sqrt((apart**2).sum(1))
    assert lines["linear2"].get_xdata() == pytest.approx(np.arange(33))
    assert lines["linear2"].get_ydata() == pytest.approx(d / d[0])
    lines = {line.get_label(): line for line in losses.get_lines()}
    for name, column in (("before", "loss_before"), ("after", "loss")):
        wanted = walk().log[column].to_numpy()
        assert lines[name].get_ydata() == pytest.approx(wanted, nan_ok=True)
    assert list(lines["threshold"].get_ydata()) == [0.9, 0.9]
    assert len(lines["all images"].get_xdata()) == 17
    for axes in (shares, losses):
        assert axes.get_yscale() == "log"
        upright = [line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2]
        assert {8, 16} <= set(upright)


def test_many_ticks_are_drawn_by_the_highest_of_several():
    path = deep(2)
    log = path.log.loc[[0] + [1] * 700].reset_index(drop=True)
    log["tick"], log["loss"], log["loss_before"] = range(701), 0.01, 0.02
    log.loc[350, "loss"] = 0.5
    path.log, path.distances = log, path.distances.loc[[0] + [1] * 700]
    figure = plot_walk(path)
    assert len(figure.table) == 235
    assert "a point is the highest of up to 3 ticks" in figure.caption
    assert figure.table["loss"].max() == 0.5
    assert figure.table["tick"].iloc[[0, 1, -1]].tolist() == [0, 3, 700]
    assert figure.table["rounds"].sum() == log["rounds"].sum()


def test_many_layers_are_drawn_by_stage():
    path = deep(17, stages=[[f"linear{k}" for k in range(1, 18)], ["output"]])
    figure = plot_walk(path)
    assert {"stage 1", "stage 2"} <= set(texts(figure))
    assert "Stages: 1: linear1, linear2, linear3 and 14 more; 2: output." in figure.caption
    assert "Nothing was retrained" in figure.alt
    assert not {"before", "after"} & set(texts(figure))
    assert len(axes_of(plot_walk(path, by="layer"))[0].get_lines()) == 18 + 1
    assert "linear1.weight" in texts(plot_walk(walk(), by="tensor"))


def test_a_walk_to_the_origin():
    figure = plot_walk(to_origin())
    assert "Left: ‖W‖ as a part of what it was at A." in figure.caption
    assert "stage begins" not in figure.caption
    assert "in 1 stage. Moving: all layers from tick 1." in figure.alt


def test_what_arrives_lies_at_the_bottom():
    path = copy.copy(walk())
    path.distances = walk().distances.copy()
    path.distances.loc[20:, ["linear1.weight", "linear1.bias"]] = 0.0
    axes = axes_of(plot_walk(path))[0]
    line = next(line for line in axes.get_lines() if line.get_label() == "linear1")
    others = np.concatenate([x.get_ydata() for x in axes.get_lines() if len(x.get_ydata()) == 33])
    assert np.isfinite(others).all()
    assert line.get_ydata()[-1] == others.min() > axes.get_ylim()[0]


def test_no_walk_no_figure():
    line = mc.LinearPath(trained(0, width=WIDTHS), trained(1, width=WIDTHS))
    with pytest.raises(TypeError, match="expected a walk, .* found LinearPath"):
        plot_walk(line)
    other = mc.profile(line, digits(), points=5, splits=("train",), progress=False)
    with pytest.raises(mc.IncompatibleError, match="a profile of this walk"):
        plot_walk(walk(), other)
    with pytest.raises(mc.UnknownNameError):
        plot_walk(walk(), by="layers")
    short = copy.copy(walk())
    short.log = walk().log.iloc[:1]
    with pytest.raises(ValueError, match="at least 1 tick, found 0"):
        plot_walk(short)


# ---------------------------------------------------------------- spheres


def spheres(rows: int = 4) -> pd.DataFrame:
    """As `variance_spheres` gives them."""
    index = pd.Index([f"layer{k}.weight" for k in range(rows)], name="tensor")
    return pd.DataFrame(
        {
            "entries": 100,
            "mean": 0.0,
            "deviation": np.geomspace(0.4, 0.05, rows),
            "spread": np.linspace(0.02, 0.5, rows),
            "share": np.linspace(1.0, 0.2, rows),
        },
        index,
    )


def test_spheres_say_their_numbers():
    figure = plot_spheres(spheres())
    assert figure.alt == (
        "The deviations of 4 tensors: from 0.05 (layer3.weight) to 0.4 (layer0.weight). The "
        "variances of different networks spread by 2.0 % (layer0.weight) to 50.0 % "
        "(layer3.weight)."
    )
    assert {"± 2 %", "± 18 %", "± 50 %", "layer2.weight"} <= set(texts(figure))
    assert list(figure.table["tensor"]) == [f"layer{k}.weight" for k in range(4)]


def test_bars_reach_from_the_least_to_the_highest_variance():
    (axes,) = axes_of(plot_spheres(spheres()))
    bars = [line for line in axes.get_lines() if len(line.get_xdata()) == 2]
    marks = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert axes.get_xscale() == "log"
    for k, (_, one) in enumerate(spheres().iterrows()):
        low, high = np.square(bars[k].get_xdata()) / one["deviation"] ** 2
        assert (low, high) == pytest.approx((1 - one["spread"], 1 + one["spread"]))
        assert list(bars[k].get_ydata()) == [k, k]
        assert marks[k].get_xdata()[0] == pytest.approx(one["deviation"])
        assert (marks[k].get_markerfacecolor() == "none") == (one["share"] < 0.9)
    # the first row is at the top
    assert axes.get_ylim()[0] > 3 > 0 > axes.get_ylim()[1]


def test_many_tensors_stand_in_several_panels_of_one_scale():
    panels = axes_of(plot_spheres(spheres(61)))
    assert len(panels) == 3
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert len({axes.get_ylim() for axes in panels}) == 1
    names = [label.get_text() for axes in panels for label in axes.get_yticklabels()]
    assert names == [f"layer{k}.weight" for k in range(61)]


def test_constant_tensors_and_bars_that_reach_zero():
    table = spheres()
    table.loc["layer1.weight", ["deviation", "spread"]] = 0.0
    table.loc["layer2.weight", "spread"] = 1.3
    figure = plot_spheres(table)
    assert "constant" in texts(figure)
    assert "± 130 %" in texts(figure)
    assert figure.alt.endswith("Constant: 1 tensor.")
    (axes,) = axes_of(figure)
    reach = np.concatenate([np.ravel(line.get_xdata()) for line in axes.get_lines()])
    assert reach.min() >= axes.get_xlim()[0] > 0
    assert reach.max() < axes.get_xlim()[1]


def test_spheres_of_networks():
    nets = [trained(seed, width=WIDTHS) for seed in (0, 1, 2)]
    table = mc.variance_spheres(nets)
    assert "6 tensors" in plot_spheres(table).alt


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (spheres().drop(columns="spread"), r"columns \['deviation', 'spread', 'share'\], found"),
        (spheres().iloc[:0], "found no rows"),
        (spheres().assign(deviation=np.nan), "finite numbers in column 'deviation'"),
        (spheres().assign(spread=-0.1), "no spread below zero, found -0.1"),
        (spheres().assign(deviation=0.0), "found constant ones only"),
    ],
)
def test_no_spheres_no_figure(table, message: str):
    with pytest.raises(ValueError, match=message):
        plot_spheres(table)


def test_the_same_data_make_the_same_bytes():
    for draw in (lambda: plot_walk(walk(), profile()), lambda: plot_spheres(spheres())):
        assert draw().html() == draw().html()
