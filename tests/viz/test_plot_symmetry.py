"""The picture of a symmetry: every space has its tag, everything frozen is said, it stays small."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import mcbook as mc
from mcbook.symmetry.spec import PermutationSpec
from mcbook.symmetry.tracing import trace_symmetry
from mcbook.viz.plots import plot_symmetry
from mcbook.viz.symmetry_parts import rows_of, short_name, side, spaces_of


class Concatenating(nn.Module):
    """Reads two layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 6, 3, padding=1)
        self.c = nn.Conv2d(14, 12, 3)
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x).relu()
        both = torch.cat([a, self.b(a).relu()], 1)
        return self.head(self.c(both).relu().mean((2, 3)))


class Shuffling(nn.Module):
    """Reads two layers by turns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(5, 8)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.stack([self.a(x).relu(), self.b(x).relu()], 2)
        return self.head(both.flatten(1))


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 12, 3),
        nn.ReLU(),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


def deep(layers: int) -> nn.Module:
    widths = [6] * layers
    return nn.Sequential(
        *(m for w in widths for m in (nn.Linear(w, w), nn.ReLU())), nn.Linear(6, 2)
    )


IMAGE = torch.zeros(1, 3, 8, 8)
FOREIGN = {
    "concatenating": (Concatenating, IMAGE),
    "shuffling": (Shuffling, torch.zeros(1, 5)),
    "grouped": (grouped, IMAGE),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        torch.zeros(1, 3, 8),
    ),
    "frozen": (lambda: nn.Linear(12, 5), torch.zeros(1, 12)),
}
OURS = ("mlp", "convnet", "resnet20")


@pytest.fixture(scope="module")
def specs() -> dict[str, PermutationSpec]:
    data = mc.load_data("digits", device="cpu")
    found = {}
    for name in OURS:
        options = {"width": (32, 24)} if name == "mlp" else {}
        found[name] = trace_symmetry(mc.build_model(name, data, **options), verify=False)
    for name, (make, example) in FOREIGN.items():
        found[name] = trace_symmetry(make(), example=example, verify=False)
    return found


def texts(figure) -> list[str]:
    """What is written in the drawing."""
    return re.findall(r"<text [^>]*>([^<]*)</text>", figure.html())


@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_every_space_is_named_and_every_tensor_is_there(specs, name: str):
    spec = specs[name]
    figure = plot_symmetry(spec)
    written = texts(figure)
    spaces = [s for k, s in spaces_of(spec).items() if spec.classes[k].is_space]
    assert [s.name for s in spaces] == list(spec.spaces)
    assert len({s.tag for s in spaces}) == len(spaces)
    for space in spaces:
        assert space.tag in written
        assert any(text.startswith(f"{space.name}: {spec.spaces[space.name]}") for text in written)
    drawn = [tensor for row in rows_of(spec) for tensor in row.tensors()]
    assert sorted(drawn) == sorted(t for t, shape in spec.shapes.items() if shape)
    assert f"{len(spec.spaces)} space" in figure.alt
    assert f"{spec.units} unit" in figure.alt
    for frozen in spec.frozen[:5]:
        assert f" of {frozen.tensor}" in figure.alt
    assert len(figure.html()) < 100_000


@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_the_table_is_the_spec(specs, name: str):
    spec = specs[name]
    table = plot_symmetry(spec).table
    assert list(table.columns) == ["tensor", "axis", "size", "spaces", "frozen"]
    free, every = spec.axis_counts()
    assert len(table) == every
    assert int((table["spaces"] != "–").sum()) == free
    for row in table.itertuples():
        (part,) = [p for p in spec.slots[row.tensor] if p.axes == (row.axis,)]
        assert row.size == spec.shapes[row.tensor][row.axis] == len(part.units)
        assert row.frozen == int((part.units < 0).sum())


@pytest.mark.parametrize("name", [*OURS, *FOREIGN])
def test_the_segments_of_a_side_are_what_stands_there(specs, name: str):
    spec = specs[name]
    for tensor, parts in spec.slots.items():
        for part in parts:
            if len(part.axes) > 1 or part.axes[0] > 1:
                continue
            segments = side(spec, tensor, part.axes[0])
            kinds = np.full(len(part.units), -1)
            for number, start in enumerate(spec.starts[:-1]):
                kinds[(part.units >= start) & (part.units < spec.starts[number + 1])] = number
            given = np.concatenate([np.full(s.length, s.kind) for s in segments])
            scattered = any(s.scattered for s in segments)
            assert given.tolist() == (
                sorted(kinds, key=kinds.tolist().index) if scattered else kinds.tolist()
            )


def test_an_mlp_in_words(specs):
    figure = plot_symmetry(specs["mlp"])
    assert figure.alt == (
        "The permutation symmetry of Network: 2 spaces with 56 units on 6 tensors: linear1: 32 "
        "units and linear2: 24 units. linear1 (S1, 32 units) acts on the most, 3 tensors: "
        "linear1.weight, linear1.bias and linear2.weight. Frozen: 64 columns of linear1.weight, "
        "10 rows of output.weight and 10 entries of output.bias."
    )
    written = texts(figure)
    assert written.count("S1") == 4  # rows, bias, columns of the next, legend
    assert written.count("64 frozen") == 1
    assert written.count("10") == 2
    assert {"linear1", "32 × 64", "bias", "frozen: stays where it is"} <= set(written)
    assert len(figure.html()) < 20_000


def test_what_is_shared_by_many_is_in_full_colour(specs):
    looks = {s.name: s.look.filled for s in spaces_of(specs["resnet20"]).values()}
    assert [name for name, filled in looks.items() if filled] == [
        "conv",
        "block2_1.conv2[16:32]",
        "block3_1.conv2[32:64]",
    ]
    figure = plot_symmetry(specs["resnet20"])
    assert "Full colour: the spaces on the most tensors." in figure.caption
    assert "conv (S1, 16 units) acts on the most, 60 tensors: conv.weight" in figure.alt
    assert "Full colour" not in plot_symmetry(specs["mlp"]).caption


def test_blocks_have_lines_and_tags_of_their_own(specs):
    spec = specs["grouped"]
    tags = {s.name: s.tag for s in spaces_of(spec).values()}
    blocks, inside = (next(c for c in spec.classes if c.size == n) for n in (4, 16))
    assert tags[inside.name] == tags[blocks.name] + "a"
    (segment,) = side(spec, "0.weight", 0)
    assert segment.ticks == (0.25, 0.5, 0.75)
    figure = plot_symmetry(spec)
    assert "16 units in S1" in figure.alt
    assert "Lines across a strip separate blocks" in figure.caption
    # every channel has four places among what the last layer reads
    (flat,) = side(spec, "7.weight", 1)
    assert (flat.length, flat.repeats) == (48, 4)
    assert f"{tags['3']} ×4" in texts(figure)


def test_sides_of_several_spaces(specs):
    joined = side(specs["concatenating"], "c.weight", 1)
    assert [(s.kind, s.length, s.scattered) for s in joined] == [(0, 8, False), (1, 6, False)]
    mingled = side(specs["shuffling"], "head.weight", 1)
    assert [(s.length, s.scattered) for s in mingled] == [(8, True), (8, True)]
    assert "above: S1 and S2 alternate" in texts(plot_symmetry(specs["shuffling"]))


def test_of_large_networks_the_first_are_drawn():
    spec = trace_symmetry(deep(50), example=torch.zeros(1, 6), verify=False)
    figure = plot_symmetry(spec)
    assert "… and 11 more matrices and convolutions, with 10 more spaces" in texts(figure)
    assert figure.alt.endswith("Not drawn: 11 more matrices and convolutions, with 10 more spaces.")
    assert "the first 40 rows; left out: 11 more matrices" in figure.caption
    named = [text for text in texts(figure) if re.search(r": 6 units", text)]
    assert len(named) + 10 == len(spec.spaces) == 50
    assert len(figure.table) == 3 * 51  # all of them
    one = plot_symmetry(spec, most_tensors=1)
    assert "the first row; left out: 50 more" in one.caption
    assert "Not drawn" not in plot_symmetry(spec, most_tensors=51).alt


def test_a_network_without_spaces(specs):
    figure = plot_symmetry(specs["frozen"])
    assert "0 spaces with 0 units" in figure.alt
    assert "12 columns of weight" in figure.alt
    assert "frozen: stays where it is" in texts(figure)
    assert set(figure.table["spaces"]) == {"–"}


def test_tied_weights_are_drawn_once(specs):
    spec = specs["mlp"]
    tied = replace(
        spec,
        shapes={**spec.shapes, "again.weight": spec.shapes["linear1.weight"]},
        aliases={"again.weight": "linear1.weight"},
    )
    figure = plot_symmetry(tied)
    assert "Tied, and drawn once: again.weight is linear1.weight." in figure.caption
    assert "again" not in texts(figure)
    assert set(figure.table["tensor"]) == set(tied.shapes)


def test_ones_own_words(specs):
    figure = plot_symmetry(specs["mlp"], alt="Two layers.", caption="")
    assert (figure.alt, figure.caption) == ("Two layers.", "")


def test_the_same_spec_makes_the_same_bytes(specs):
    for name in ("resnet20", "grouped"):
        assert plot_symmetry(specs[name]).html() == plot_symmetry(specs[name]).html()


def test_every_colour_follows_the_page(specs):
    for name in ("resnet20", "attention"):
        drawing = plot_symmetry(specs[name]).html().partition("<img")[0].partition("</style>")[2]
        colours = re.findall(r"(?:fill|stroke):(#[0-9a-f]{6})", drawing)
        assert colours == []


@pytest.mark.parametrize("bad", [None, {"linear1": 32}, nn.Linear(2, 2)])
def test_what_is_no_spec_is_refused(bad):
    with pytest.raises(TypeError, match="expected a PermutationSpec, found "):
        plot_symmetry(bad)


@pytest.mark.parametrize("most", [0, -3, True, 2.5])
def test_at_least_one_tensor(specs, most):
    with pytest.raises(ValueError, match="most_tensors of at least 1, found"):
        plot_symmetry(specs["mlp"], most_tensors=most)


@pytest.mark.parametrize(
    ("most", "short"),
    [
        (60, "features.denseblock1.denselayer10.conv2"),
        (35, "…denseblock1.denselayer10.conv2"),
        (20, "…denselayer10.conv2"),
        (10, "…conv2"),
        (4, "…nv2"),
    ],
)
def test_names_lose_what_says_least(most: int, short: str):
    assert short_name("features.denseblock1.denselayer10.conv2", most) == short
    assert short_name("encoder.layer_0.attention.in_proj", 24) == "…layer_0…in_proj"
