"""The walk slider without a browser: its rows, its stages in words, its payload, its errors."""

from __future__ import annotations

import copy
import json
import re
from functools import cache

import numpy as np
import pytest
import torch

import mcbook as mc
from mcbook.viz.walk_payload import MOST_TICKS, named_stages, walk_payload, walk_rows
from mcbook.viz.walk_slider import WalkSlider, percent_left
from tests.viz.slider_cases import digits, trained

WIDTHS = (12, 9)
BARE = {"rounds": (0, 0), "threshold": 9.0, "images": 50, "progress": False}


@cache
def walk() -> mc.LayerwisePath:
    """Three stages of 8, 8 and 16 ticks, retrained."""
    a, b = (trained(seed, width=WIDTHS) for seed in (0, 1))
    options = {"ticks": [8, 8, 16], "step": 0.15, "rounds": (2, 7), "points": 16}
    return mc.layerwise_path(a, b, digits(), threshold=0.9, progress=False, **options)


@cache
def profile() -> mc.Profile:
    """Of `walk`."""
    return mc.profile(walk(), digits(), points=5, splits=("train",), progress=False)


@cache
def to_origin() -> mc.LayerwisePath:
    """All layers at once, toward the origin."""
    a = trained(0, width=WIDTHS)
    options = {"ticks": 12, "step": 0.05, "rounds": (1, 3), "points": 4, "progress": False}
    return mc.path_to_origin(a, digits(), threshold=1.0, **options)


def bare(a, b, data=None, **options) -> mc.LayerwisePath:
    """A walk without retraining."""
    return mc.layerwise_path(a, b, data or digits(), **{**BARE, **options})


def deep(layers: int, **options) -> mc.LayerwisePath:
    """A walk between two narrow and deep networks, a tick a stage."""
    nets = [mc.build_model("mlp", digits(), seed=s, width=(3,) * layers) for s in (0, 1)]
    return bare(*nets, ticks=4 * (layers + 2), points=1, step=0.3, **options)


# ---------------------------------------------------------------- rows


def test_shares_are_those_of_the_recorded_networks():
    path = walk()
    recorded = path.log.dropna(subset="t")
    assert len(recorded) == 17
    weights = {t: path.at(t) for t in recorded["t"]}
    b = path.at(1.0)
    for by, members in (
        ("tensor", lambda name: [name]),
        ("layer", lambda name: [f"{name}.weight", f"{name}.bias"]),
        ("stage", lambda name: [f"{name}.weight", f"{name}.bias"]),
    ):
        rows = walk_rows(path, by)
        assert len(rows) == (6 if by == "tensor" else 3)
        for row in rows:
            assert list(row.tensors) == members(row.name)
            distances = [
                np.sqrt(sum(float((at[n] - b[n]).square().sum()) for n in members(row.name)))
                for at in weights.values()
            ]
            found = row.share[recorded["tick"].to_numpy()]
            assert found == pytest.approx(np.array(distances) / distances[0], rel=1e-4)


def test_rows_are_merged_until_there_are_few():
    assert [row.name for row in walk_rows(walk())][:2] == ["linear1.weight", "linear1.bias"]
    # 8 layers of two tensors are just few enough, 9 are not
    assert len(walk_rows(deep(7))) == 16
    assert [row.name for row in walk_rows(deep(8))] == [
        *(f"linear{k}" for k in range(1, 9)),
        "output",
    ]
    path = deep(
        17, stages=[["linear1", "linear2"], [f"linear{k}" for k in range(3, 18)], ["output"]]
    )
    rows = walk_rows(path)
    assert [row.name for row in rows] == [
        "linear1 and linear2",
        "linear3, linear4, linear5 and 12 more",
        "output",
    ]
    assert len(walk_rows(path, "layer")) == 18
    assert len(walk_rows(path, "tensor")) == 36


def test_rows_know_their_stage_and_biases_are_thin():
    rows = walk_rows(walk(), "tensor")
    assert [row.stage for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row.look for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row.thin for row in rows] == [False, True] * 3
    assert not any(row.thin for row in walk_rows(walk(), "layer"))
    # of one stage alone, layers are told apart
    alone = walk_rows(to_origin())
    assert [row.stage for row in alone] == [0] * 6
    assert [row.look for row in alone] == [0, 0, 1, 1, 2, 2]


def test_what_has_no_way_to_go_has_no_row():
    nets = [mc.build_model("lenet5", mc.load_data("digits", size=32), seed=s) for s in (0, 1)]
    with torch.no_grad():
        for net in nets:
            next(iter(dict(net.named_parameters()).values())).fill_(0.25)
    path = bare(*nets, mc.load_data("digits", size=32), ticks=12, step=0.3)
    first = next(iter(path.distances))
    assert path.distances[first].iloc[0] == 0
    assert first not in [row.name for row in walk_rows(path, "tensor")]
    assert len(walk_rows(path, "tensor")) == path.distances.shape[1] - 1
    assert walk_payload(path)["left_out"] == 1
    with pytest.raises(ValueError, match="layers that are not where they go, found none"):
        WalkSlider(bare(nets[0], nets[0], mc.load_data("digits", size=32), ticks=12))


# ---------------------------------------------------------------- stages


def test_the_layers_said_to_move_are_those_that_do():
    a, b = (trained(seed, width=WIDTHS) for seed in (0, 1))
    for options in (
        {"ticks": [3, 2, 4]},
        {"ticks": [3, 0, 4]},
        {"ticks": 9, "stages": "all"},
        {"ticks": [3, 4], "stages": [["output", "linear1.bias"], ["linear2", "linear1"]]},
    ):
        path = bare(a, b, step=0.2, **options)
        rows, stages = walk_rows(path, "tensor"), named_stages(path)
        payload = walk_payload(path, by="tensor")
        assert [(s["first"], s["upto"]) for s in payload["stages"]] == [
            (s.first, s.upto) for s in stages
        ]
        for tick in range(1, len(path.log)):
            stage = stages[path.log["stage"][tick] - 1]
            assert stage.first <= tick <= stage.last
            said = {row.name for row in rows if row.stage < stage.upto}
            d = path.distances
            assert said == {n for n in d if d[n][tick] < (1 - 1e-4) * d[n][tick - 1]}


def test_stages_in_words():
    stages = named_stages(walk())
    assert [stage.words for stage in stages] == ["linear1", "linear1 and linear2", "all layers"]
    assert [stage.verb for stage in stages] == ["moves", "move", "move"]
    assert [stage.begins for stage in stages] == ["linear1", "linear2", "output"]
    assert [(stage.first, stage.last) for stage in stages] == [(1, 8), (9, 16), (17, 32)]
    # a part of a layer has its own name
    a, b = (trained(seed, width=WIDTHS) for seed in (0, 1))
    groups = [["linear1.bias"], ["linear2", "linear1"], ["output"]]
    stages = named_stages(bare(a, b, ticks=[1, 1, 1], stages=groups))
    assert [stage.words for stage in stages][:2] == ["linear1.bias", "linear1 and linear2"]


def test_a_walk_that_shrinks_first_moves_all_and_then_stage_by_stage():
    a, b = trained(0, width=WIDTHS), copy.deepcopy(trained(1, width=WIDTHS))
    with torch.no_grad():
        for p in b.parameters():
            p.mul_(0.6)
    stages = named_stages(bare(a, b, ticks=[2, 2, 3], step=0.2, sphere="shrink"))
    assert [stage.upto for stage in stages] == [3, 1, 2, 3]
    words = ["all layers", "linear1", "linear1 and linear2", "all layers"]
    assert [stage.words for stage in stages] == words
    assert [stage.begins for stage in stages] == ["all layers", "linear1", "linear2", "output"]


# ---------------------------------------------------------------- the payload


def test_the_payload_is_the_log():
    path = walk()
    payload = walk_payload(path, profile())
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert payload["ticks"] == list(range(33))
    assert payload["total"] == 32
    for name, column in (("stage", "stage"), ("rounds", "rounds"), ("most", "at_most")):
        assert payload[name] == path.log[column].astype(int).tolist()
    assert sum(payload["most"]) not in (0, 32)
    for name, column in (("before", "loss_before"), ("after", "loss"), ("left", "distance")):
        found = np.array(payload[name], dtype=float)
        assert found == pytest.approx(path.log[column].to_numpy(), rel=5e-4, nan_ok=True)
    assert payload["before"][0] is None
    assert payload["threshold"] == pytest.approx(0.9)
    assert payload["closing"] == pytest.approx(path.closing, rel=5e-4)
    assert (payload["converged"], payload["shortfalls"] == "") == (path.converged,) * 2
    assert payload["distance"] == "‖W − W(B)‖"


def test_the_full_loss_is_that_of_the_profile_at_the_recorded_ticks():
    path = walk()
    full = walk_payload(path, profile())["full"]
    assert full["tick"] == path.log.dropna(subset="t")["tick"].tolist()
    for tick, loss in list(zip(full["tick"], full["loss"], strict=True))[::5]:
        network = path.model_at(float(path.log["t"][tick]))
        assert loss == pytest.approx(mc.evaluate(network, digits().train)[0], rel=1e-3)
    assert walk_payload(path)["full"] == {"tick": [], "loss": []}


def test_many_ticks_are_thinned_evenly_and_the_page_stays_small():
    path = deep(7, stages="all")
    log = path.log.loc[[0] + [1] * 2500].reset_index(drop=True)
    log["tick"] = range(2501)
    log["t"] = np.nan
    log["loss"] = np.linspace(0.001234567, 0.1, 2501)
    log["loss_before"] = log["loss"].iloc[::-1].to_numpy()
    path.log = log
    path.distances = path.distances.loc[[0] + [1] * 2500]
    path.distances = path.distances * np.linspace(1, 0.123, 2501)[:, None]
    payload = walk_payload(path)
    assert len(payload["rows"]) == 16
    assert len(payload["ticks"]) == MOST_TICKS + 1
    assert payload["ticks"][0] == 0
    assert payload["ticks"][-1] == payload["total"] == 2500
    steps = np.diff(payload["ticks"])
    assert set(steps) == {2, 3}
    assert payload["after"] == pytest.approx(log["loss"][payload["ticks"]].tolist(), rel=5e-4)
    assert all(len(row["share"]) == MOST_TICKS + 1 for row in payload["rows"])
    assert len(json.dumps(payload, separators=(",", ":"))) < 200_000
    assert WalkSlider(path).tick == payload["ticks"][500]
    # where rows are many, ticks are fewer
    wide = deep(17, stages="all")
    wide.log = log
    wide.distances = wide.distances.loc[[0] + [1] * 2500]
    assert len(json.dumps(walk_payload(wide, by="tensor"), separators=(",", ":"))) < 200_000


def test_it_starts_at_the_middle_tick_and_follows_t():
    one = WalkSlider(walk())
    assert (one.t, one.tick) == (0.5, 16)
    one.t = 1.0
    assert one.tick == 32
    assert WalkSlider(walk(), start=0.26).tick == 8


def test_names_of_the_ends():
    payload = walk_payload(walk())
    assert payload["ends"] == ["A", "B"]
    assert payload["title"] == "A walk from A to B, layer by layer"
    origin = walk_payload(to_origin())
    assert origin["ends"] == ["A", "the origin"]
    assert origin["closing"] is None
    assert origin["distance"] == "‖W‖"
    assert walk_payload(walk(), ends=("A", "π(B)"))["distance"] == "‖W − W(π(B))‖"
    assert walk_payload(walk(), title="Mine")["title"] == "Mine"


# ---------------------------------------------------------------- what is refused


def test_what_cannot_be_shown_is_refused():
    line = mc.LinearPath(trained(0, width=WIDTHS), trained(1, width=WIDTHS))
    with pytest.raises(TypeError, match="expected a walk, .* found LinearPath"):
        WalkSlider(line)
    with pytest.raises(mc.UnknownNameError, match="rows"):
        WalkSlider(walk(), by="layers")
    with pytest.raises(ValueError, match="two different names for the ends"):
        WalkSlider(walk(), ends=("A", "A"))
    with pytest.raises(TypeError, match="expected a profile of the walk"):
        WalkSlider(walk(), profile().table)
    other = mc.profile(line, digits(), points=5, splits=("train",), progress=False)
    with pytest.raises(mc.IncompatibleError, match=r"profile of this walk, .* \(tick \d+\)"):
        WalkSlider(walk(), other)
    test = mc.profile(walk(), digits(), points=2, splits=("test",), progress=False)
    with pytest.raises(ValueError, match="column train_loss, found t, test_loss"):
        WalkSlider(walk(), test)
    short = copy.copy(walk())
    short.log = walk().log.iloc[:1]
    with pytest.raises(ValueError, match="at least 1 tick, found 0"):
        WalkSlider(short)


# ---------------------------------------------------------------- without scripts


def test_the_table_has_a_row_for_every_stage():
    text, log = WalkSlider(walk()).table(), walk().log
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text)
    assert [number for number, _ in rows] == ["1", "2", "3"]
    for number, row in rows:
        cells = re.findall("<td>(.*?)</td>", row)
        part = log[log["stage"] == int(number)]
        assert cells[0] == f"{part['tick'].min()} to {part['tick'].max()}"
        assert int(cells[2]) == part["rounds"].sum()
        assert float(cells[3]) == pytest.approx(part["loss"].max(), rel=6e-3)
        assert float(cells[4]) == pytest.approx(part["loss"].iloc[-1], rel=6e-3)
        assert cells[5] == percent_left(part["distance"].iloc[-1])
    assert "threshold 0.9" in text
    assert "–" in WalkSlider(deep(2)).table()


def test_the_text_says_ticks_stages_and_whether_it_arrived():
    left = percent_left(walk().relative_distance)
    assert repr(WalkSlider(walk())).startswith(
        f"WalkSlider(32 ticks in 3 stages from A to B: {left} of the distance left, "
    )
    assert "converged" in repr(WalkSlider(walk()))
    assert "not converged: " in repr(WalkSlider(deep(2)))


def test_shares_as_text():
    assert [percent_left(x) for x in (1.012, 0.43, 0.0996, 0.0624, 0.00996, 0.0043, 0.0)] == [
        *("101 %", "43 %", "10 %", "6.2 %", "1.0 %", "0.43 %", "0 %")
    ]


def test_the_same_slider_is_the_same_bytes_and_changes_nothing(same_random_state):
    before = walk().log.copy(), walk().distances.copy()
    html = WalkSlider(walk(), profile()).to_html()
    assert html == WalkSlider(walk(), profile()).to_html()
    assert walk().log.equals(before[0])
    assert walk().distances.equals(before[1])
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert len(html) < 60_000
