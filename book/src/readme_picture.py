"""The picture of the README: three basins, and the wall on the line between two of them.

Run it from the repository's root; it writes `book/_static/wall.svg`.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import mcbook as mc
from mcbook.files import write_atomic


def main() -> None:
    """Train the first chapter's three networks, measure, draw."""
    mc.begin_chapter(0)
    data = mc.load_data("digits", device="cpu")
    networks = [
        mc.train(
            mc.build_model("mlp", data, width=(32, 32), seed=seed), data, seed=seed, progress=False
        )
        for seed in range(3)
    ]
    a, b, c = (parameters_to_vector(network.parameters()).detach() for network in networks)
    e1 = (b - a) / (b - a).norm()
    e2 = (c - a) - ((c - a) @ e1) * e1
    e2 = e2 / e2.norm()
    corners = np.array([[float((w - a) @ e1), float((w - a) @ e2)] for w in (a, b, c)])
    side = corners[1, 0]
    xs, ys = np.linspace(-0.35, 1.35, 61) * side, np.linspace(-0.3, 1.2, 61) * side
    path = mc.LinearPath(networks[0], networks[1])
    walker = path.model_at(0)
    loss = np.empty((len(ys), len(xs)))
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            vector_to_parameters(a + float(x) * e1 + float(y) * e2, walker.parameters())
            loss[i, j] = mc.evaluate(walker, data.test)[0]
    measured = mc.profile(path, data, progress=False)
    write_atomic("book/_static/wall.svg", _draw(xs, ys, loss, corners, measured))


def _draw(
    xs: np.ndarray, ys: np.ndarray, loss: np.ndarray, corners: np.ndarray, measured: mc.Profile
) -> bytes:
    import io

    ink, wall = "#1b1b1b", "#d55e00"
    settings = {"font.size": 11, "svg.hashsalt": "wall", "svg.fonttype": "path"}
    with torch.no_grad(), plt.rc_context(settings):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(1, 1.1))
        levels = [0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5]
        left.contourf(xs, ys, np.log(loss), levels=np.log([0.05, *levels, 20]), cmap="Blues")
        lines = left.contour(xs, ys, loss, levels=levels, colors=ink, linewidths=0.5)
        left.clabel(lines, levels=[0.2, 0.5, 1, 2, 5], fmt="%g", fontsize=8)
        left.plot(*corners[:2].T, color=wall, linewidth=2.5)
        left.plot(*corners.T, "o", color=ink, markersize=8, markeredgecolor="white")
        for name, (x, y) in zip("ABC", corners, strict=True):
            place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
            left.annotate(name, (x, y), weight="bold", size=13, **place)
        left.set(aspect="equal", xticks=[], yticks=[])
        left.set_title("a plane through three trained networks", fontsize=11)
        t, y = measured.table["t"], measured.table["test_loss"]
        right.plot(t, y, color=wall, linewidth=2.5)
        right.plot([0, 1], y.iloc[[0, -1]], color=ink, linestyle=":", linewidth=1.2)
        right.plot([0, 1], y.iloc[[0, -1]], "o", color=ink, markersize=8)
        right.set_title("test loss on the straight line from A to B", fontsize=11)
        right.set(ylim=(0, 1.1 * y.max()), xlabel="t, the weight of B")
        right.set_xticks([0, 0.5, 1], ["0\nA", "0.5", "1\nB"])
        right.spines[["top", "right"]].set_visible(False)
        figure.patch.set_facecolor("white")
        figure.tight_layout()
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        plt.close(figure)
    return out.getvalue()


if __name__ == "__main__":
    main()
