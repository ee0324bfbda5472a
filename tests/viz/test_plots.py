"""Every plot says its numbers, refuses what it cannot draw, and stays small."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from mcbook.analysis.profiles import Profile
from mcbook.analysis.statistics import interval
from mcbook.viz.plots import (
    plot_barriers,
    plot_history,
    plot_images,
    plot_plane,
    plot_profile,
    plot_profile_band,
    plot_simplex,
)
from mcbook.viz.wording import count, distance, distances, listed, number, percent


def hill(height: float, points: int = 61, kind: str = "linear") -> Profile:
    """A profile whose loss is 0.11 at A, 0.10 at B and highest in the middle."""
    t = np.linspace(0, 1, points)
    bump = np.sin(np.pi * t) ** 2
    table = {
        "t": t,
        "train_loss": 0.01 + height * bump,
        "train_accuracy": 1.0 - 0.4 * min(height, 1.0) * bump,
        "test_loss": 0.11 - 0.01 * t + height * bump,
        "test_accuracy": 0.97 - 0.5 * min(height, 1.0) * bump,
        "distance_a": t,
    }
    return Profile(pd.DataFrame(table), "none", kind, "digits")


def history(rate: float, epochs: int = 12) -> pd.DataFrame:
    fall = np.exp(-rate * np.arange(epochs))
    return pd.DataFrame(
        {
            "epoch": np.arange(1, epochs + 1),
            "lr": 0.05,
            "train_loss": 2 * fall,
            "train_accuracy": 1 - 0.9 * fall,
            "test_loss": 0.1 + 2 * fall,
            "test_accuracy": 0.95 - 0.85 * fall,
        }
    )


def texts(figure) -> list[str]:
    """What is written in the drawing."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", figure.html())


def test_a_profile_says_its_numbers():
    figure = plot_profile(hill(1.172), what="loss", splits=["test"])
    # the chord at the middle is 0.105, the value there 0.105 + 1.172
    assert figure.alt == (
        "Test loss along the line from A to B: 0.11 at A, rises to 1.28 at t = 0.50, "
        "0.10 at B; barrier 1.17."
    )
    assert "barrier 1.17" in texts(figure)
    assert "max over t of L(t) − ((1 − t) L(0) + t L(1))" in figure.caption
    assert list(figure.table.columns) == ["t", "test_loss"]
    assert len(figure.html()) < 20_000


def test_both_splits_and_both_measures_by_default():
    figure = plot_profile(hill(1.17))
    assert figure.alt.count("barrier") == 4
    assert "Test accuracy along the line from A to B: 97.0 % at A, falls to 47.0 %" in figure.alt
    assert "barrier 50.0 points" in figure.alt
    assert set(figure.table.columns) == {
        "t",
        "test_loss",
        "test_accuracy",
        "train_loss",
        "train_accuracy",
    }
    assert {"Loss", "Accuracy", "test", "train", "A", "B"} <= set(texts(figure))
    assert len(figure.html()) < 32_000


def test_the_profile_draws_itself(monkeypatch: pytest.MonkeyPatch):
    assert hill(1.17).plot().html() == plot_profile(hill(1.17)).html()


def test_a_flat_profile_looks_flat():
    figure = plot_profile(hill(0.004), what="loss", splits="test")
    assert "0.11 at A and 0.10 at B, in between at most 0.11; barrier 0.004." in figure.alt
    assert "0.00" in texts(figure)
    assert "barrier 0.004" in texts(figure)


def test_several_profiles_have_labels_dashes_and_markers():
    profiles = {"naive": hill(1.2), "curve": hill(0.02, kind="bezier"), "third": hill(0.5)}
    figure = plot_profile(profiles, what="loss")
    assert figure.alt.startswith("naive: test loss along the line from A to B: ")
    assert "curve: test loss along the Bezier curve from A to B" in figure.alt
    assert {"naive (barrier 1.20)", "curve (barrier 0.02)"} <= set(texts(figure))
    # colour is never the only difference: the second and third have dashes of their own
    assert len(set(re.findall(r"stroke-dasharray:[^;]+", figure.html()))) >= 3
    assert list(figure.table.columns) == [
        "t",
        "naive test_loss",
        "curve test_loss",
        "third test_loss",
    ]


def test_profiles_on_other_grids_make_a_long_table():
    figure = plot_profile({"a": hill(1.0), "b": hill(1.0, points=21)}, what="loss")
    assert list(figure.table.columns) == ["label", "t", "test_loss"]
    assert len(figure.table) == 61 + 21


def test_alt_and_caption_can_be_replaced():
    figure = plot_profile(hill(1.0), alt="My words.", caption="")
    assert figure.alt == "My words."
    assert "<figcaption>" not in figure.html()


def test_the_ends_have_the_names_they_are_given():
    figure = plot_profile(hill(1.0), ends=("A", "π(A)"))
    assert "Test loss along the line from A to π(A): 0.11 at A, rises to 1.1" in figure.alt
    assert "0.10 at π(A)" in figure.alt
    assert {"A", "π(A)", "t, the weight of π(A)"} <= set(texts(figure))
    assert "B" not in texts(figure)
    flat = plot_profile(hill(0.004), what="loss", splits="test", ends=("A", "π(A)"))
    assert "0.11 at A and 0.10 at π(A), in between at most 0.11" in flat.alt
    plain = hill(1.0).plot()
    assert plain.html() == hill(1.0).plot(ends=("A", "B")).html()
    assert {"A", "B", "t, the weight of B"} <= set(texts(plain))


def test_no_chord_no_barrier():
    figure = plot_profile(hill(1.0), what="loss", chord=False, mark_barrier=False)
    assert figure.caption is None
    assert not any("barrier" in text for text in texts(figure))


def test_a_band_says_mean_and_interval():
    heights = [1.0, 1.1, 1.3]
    figure = plot_profile_band([hill(height) for height in heights], what="loss")
    mean, low, high = interval([hill(height).barrier("test", "loss") for height in heights])
    assert "Mean test loss of 3 pairs" in figure.alt
    assert (
        f"barrier {number(mean)} on average (95 % interval {number(low)} to {number(high)}, "
        f"pairs from 1.00 to 1.30)"
    ) in figure.alt
    at = figure.table[figure.table["t"] == 0.5].iloc[0]
    expected = interval([0.105 + height for height in heights])
    assert tuple(at[["test_loss_mean", "test_loss_low", "test_loss_high"]]) == pytest.approx(
        tuple(expected)
    )


def test_a_band_of_groups_and_a_band_of_one():
    figure = plot_profile_band({"k = 0": [hill(1.0), hill(1.2)], "k = 20": [hill(0.3)]})
    assert figure.alt.startswith("k = 0: mean test loss of 2 pairs")
    assert "k = 20: mean test loss of 1 pair: " in figure.alt
    assert set(figure.table["label"]) == {"k = 0", "k = 20"}


def barriers() -> pd.DataFrame:
    values = {8: [1.5, 1.4, 1.6], 128: [0.9, 0.8, 1.0], 512: [0.7]}
    rows = [{"width": w, "barrier": b} for w, measured in values.items() for b in measured]
    return pd.DataFrame(rows)


def test_barriers_say_mean_and_interval():
    figure = plot_barriers(barriers())
    assert figure.alt == (
        "Barrier by width: 1.50 at 8 (interval 1.25 to 1.75); 0.90 at 128 (interval 0.65 to 1.15); "
        "0.70 at 512."
    )
    assert "95 % interval (Student's" in figure.caption
    assert "a single pair has none" in figure.caption
    assert list(figure.table["pairs"]) == [3, 3, 1]
    assert {"8", "128", "512", "width"} <= set(texts(figure))


def test_a_record_stands_beside_the_live_result():
    live, record = barriers().assign(data="digits"), barriers().assign(data="MNIST, record")
    figure = plot_barriers(pd.concat([live, record]), group="data", y_label="test-loss barrier")
    assert "digits: test-loss barrier by width" in figure.alt
    assert "MNIST, record: test-loss barrier by width" in figure.alt
    assert list(figure.table.columns) == ["data", "width", "pairs", "mean", "low", "high"]


def test_names_stand_in_the_order_given():
    table = pd.DataFrame({"method": ["naive", "matching"], "barrier": [1.2, 0.01]})
    figure = plot_barriers(table, x="method")
    assert figure.alt == "Barrier by method: 1.20 at naive; 0.01 at matching."
    assert figure.caption == "One pair at every point."


def test_images_say_what_was_taken_for_what():
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    figure = plot_images(x, torch.arange(12) % 10, [0, 1, 2, 8, *range(4, 10), 0, 1])
    assert figure.alt.endswith("wrong: number 4, 3, taken for 8.")
    assert "✗ 8, is 3" in texts(figure)
    # one picture a row, in the drawing and in the still one
    assert figure.html().count("data:image/png;base64") == 4
    right = plot_images(x[:3], [0, 1, 2], [0, 1, 2], classes=["zero", "one", "two"])
    assert right.alt == "3 images, labelled zero, one and two; all predicted right."
    assert len(figure.html()) < 20_000


def test_colour_images_and_images_without_labels():
    figure = plot_images(np.random.default_rng(0).random((3, 3, 6, 8)), alt="Three.")
    assert figure.alt == "Three."
    assert plot_images(np.zeros((2, 5, 5))).alt == "2 images."


def test_history_says_first_and_last():
    figure = plot_history(history(0.5))
    assert figure.alt == (
        "Test loss 2.10 after epoch 1, 0.11 after epoch 12. "
        "Test accuracy 10.0 % after epoch 1, 94.7 % after epoch 12."
    )
    several = plot_history({"A": history(0.5), "B": history(0.3)}, what="loss", log_loss=True)
    assert several.alt.startswith("A: test loss 2.10 after epoch 1")
    assert "label" in several.table.columns


def plane() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    xs, ys = np.linspace(-0.5, 1.5, 41), np.linspace(-0.5, 1.0, 31)
    x, y = np.meshgrid(xs, ys)
    return xs, ys, 0.1 + 4 * (x * (1 - x)) ** 2 + y**2


def test_a_plane_says_what_is_at_the_points_and_between_them():
    xs, ys, z = plane()
    figure = plot_plane(xs, ys, z, {"A": (0, 0), "B": (1, 0), "C": (0.5, 0.8)})
    assert "about 0.10 at A, about 0.10 at B and about 0.99 at C" in figure.alt
    assert "on the segment from A to B at most 0.35" in figure.alt
    assert "from 0.10 to" in figure.alt
    assert {"A", "B", "C", "Test loss"} <= set(texts(figure))
    # the rows of the file are the rows of the grid
    assert figure.table.shape == (31, 42)
    assert len(figure.html()) < 70_000


def test_a_plane_with_a_curve_and_levels_of_ones_own():
    xs, ys, z = plane()
    curve = np.array([[0, 0], [0.5, 0.5], [1, 0]])
    figure = plot_plane(
        xs, ys, z, {"A": (0, 0), "B": (1, 0)}, segments=[], path=curve, levels=[0.2, 0.5]
    )
    assert "segment" not in figure.alt
    assert {"0.2", "0.5"} <= set(texts(figure))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_profile({}), "at least one profile, found none"),
        (lambda: plot_profile(hill(1), what="losses"), "found 'losses'"),
        (lambda: plot_profile(hill(1), splits=["valid"]), r"found \['valid'\]"),
        (lambda: plot_profile(hill(1), splits=[]), "found none"),
        (lambda: plot_profile(hill(1), ends=("A",)), "two different names .* found .'A',."),
        (lambda: plot_profile(hill(1), ends="AB"), "two different names .* found 'AB'"),
        (lambda: plot_profile(hill(1), ends=("A", "A")), "two different names"),
        (lambda: plot_profile_band([]), "at least one profile"),
        (lambda: plot_profile_band([hill(1), hill(1, 21)]), "at the same t, found 61 and 21"),
        (lambda: plot_barriers(barriers(), x="depth"), "columns .*'depth'.*found width, barrier"),
        (lambda: plot_barriers(barriers()[:0]), "found no rows"),
        (lambda: plot_barriers(barriers() * 0), "above zero on a logarithmic axis, found 0"),
        (lambda: plot_barriers(barriers() * np.nan), "finite numbers in column 'barrier'"),
        (lambda: plot_images(np.zeros((2, 2, 4, 4))), r"found shape \[2, 2, 4, 4\]"),
        (lambda: plot_images(np.zeros((0, 4, 4))), "1 to 200 images, found 0"),
        (lambda: plot_images(np.zeros((2, 4, 4)), [1]), "labels for 2 images, found 1"),
        (lambda: plot_images(np.zeros((2, 4, 4)), columns=0), "at least one column, found 0"),
        (lambda: plot_history({}), "at least one history"),
        (lambda: plot_history(history(1).drop(columns="epoch")), "columns .*'epoch'"),
        (lambda: plot_plane([0, 1], [0, 1, 2], np.zeros((2, 3)), {}), r"found \(2, 3\)"),
        (lambda: plot_plane([0, 1], [0, 1], np.full((2, 2), np.nan), {}), "finite values"),
        (
            lambda: plot_plane([0, 1], [0, 1], np.eye(2), {"A": (0, 0)}, segments=[("A", "B")]),
            "found 'B'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_same_data_make_the_same_bytes():
    first, second = (
        [
            plot_profile({"a": hill(1.0), "b": hill(0.5)}).html(),
            plot_profile_band([hill(1.0), hill(0.5)]).html(),
            plot_barriers(barriers()).html(),
            plot_history(history(0.5)).html(),
            plot_plane(*plane(), {"A": (0, 0), "B": (1, 0)}).html(),
        ]
        for _ in range(2)
    )
    assert first == second


def test_tiny_differences_between_machines_leave_no_trace():
    exact, other = hill(1.17), hill(1.17)
    noise = 1 + 1e-9 * np.random.default_rng(0).standard_normal(61)
    shifted = other.table.assign(test_loss=other.table["test_loss"] * noise)
    assert plot_profile(exact).html() == (
        plot_profile(Profile(shifted, "none", "linear", "digits")).html()
    )


def test_wording():
    assert [number(v) for v in (1.274, 0.0112, 0.0, 1e-9, 0.0999, -1.5, 12345.6)] == [
        "1.27",
        "0.011",
        "0.00",
        "0.00",
        "0.10",
        "−1.50",
        "1.235e+04",
    ]
    assert percent(0.9725) == "97.2 %"
    assert distance(0.571, "accuracy") == "57.1 points"
    assert distances(0.1, 0.2, "accuracy") == "10.0 to 20.0 points"
    assert count(1, "pair") == "1 pair"
    assert count(2, "pair") == "2 pairs"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_a_simplex_shows_where_distributions_go():
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.2, 0.7])
    t = np.linspace(0, 1, 5)[:, None]
    figure = plot_simplex({"mixture": (1 - t) * p + t * q, "stays": np.stack([p, p])}, "abc")
    page = figure.html()
    assert "mixture" in page
    assert "stays" in page
    assert "(0.40, 0.20, 0.40) half-way" in figure.alt  # half-way
    assert "In the triangle of a, b, c" in figure.alt


@pytest.mark.parametrize(
    ("trails", "corners", "message"),
    [
        ({}, "abc", "at least one trail"),
        ({"x": np.ones((3, 3)) / 3}, "ab", "names of 3 corners, found 2"),
        ({"x": np.ones((1, 3)) / 3}, "abc", r"found \[1, 3\]"),
        ({"x": np.ones((3, 4)) / 4}, "abc", r"found \[3, 4\]"),
        ({"x": np.ones((3, 3))}, "abc", "distributions"),
        ({"x": np.array([[-0.5, 0.5, 1.0]] * 2)}, "abc", "distributions"),
        ({"x": np.full((2, 3), np.nan)}, "abc", "distributions"),
    ],
)
def test_no_simplex_of_what_is_no_distribution(trails, corners, message):
    with pytest.raises(ValueError, match=message):
        plot_simplex(trails, corners)
