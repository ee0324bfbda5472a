"""Activation matching: the order of B's hidden units in which they do most nearly what A's do."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Data, Split
from ..errors import UnknownNameError, expect
from ..progress import Bar
from ..symmetry.activations import Site, Sites, Standing, find_sites
from ..symmetry.examples import copied
from ..symmetry.permutations import Permutation
from ..symmetry.replaying import fits, replay
from ..symmetry.spec import PermutationSpec
from .alignment import Alignment, aligned, check_networks
from .assignment import best_element
from .moments import COSTS, Moments

__all__ = ["activation_matching", "balanced"]

# what A's activations on one batch may take on a CPU (the less, the more stays in its cache) and
# elsewhere, and how many images a batch has at most
_MEMORY = {"cpu": 2**26}
_LARGE_MEMORY = 2**30
_BATCH = 512
# own slots are preferred by this share of the largest gain
_TIE = 1e-9


def activation_matching(
    a: nn.Module,
    b: nn.Module,
    data: Data | Split,
    cost: str = "correlation",
    images: int = 5_000,
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> Alignment:
    """Permute the hidden units of B so that their activations resemble those of A's.

    Both networks see the same images.  Where a layer reads the units of a space (see
    `symmetry.activations`), `x_i` is the activation of A's unit `i` and `y_j` that of B's unit
    `j`, over all images and all positions in them (pixels, tokens, steps).  For every space

        p = argmax_p Σ_i gain[i, p(i)],

    a linear assignment, independent of all other spaces, exact in one step:

    | `cost` | `gain[i, j]` |
    |---|---|
    | `correlation` | Pearson's correlation of `x_i` and `y_j` (Li et al., Jordan et al.) |
    | `dot` | `E[x_i y_j]`, not centred (Ainsworth et al., section 3.1) |
    | `distance` | `-E[(x_i - y_j)²] = 2 E[x_i y_j] - E[x_i²] - E[y_j²]` |

    The sum of `E[x_i²] + E[y_j²]` over a permutation does not depend on it, so `dot` and `distance`
    find the same one; `distance` says how near B comes to A.

    A residual stream is read in many places, its *members*.  Their gains are averaged: correlations
    of every member with equal weight, whatever its scale, rather than one correlation of all
    numbers together, which the members of largest variance would decide.  (Jordan et al. look at
    the end of a stage only.)  Units in blocks are matched inside them, and the blocks by what is
    inside (`best_element`).  Where another space stands on further axes of the same activation, the
    mean over these is taken, since their order is not known yet.

    A unit that never varies (a dead one) correlates with none: its gains are 0, as those of a unit
    that is always 0 are under `dot`.  Such units take the places that are left.  Where assignments
    tie, units stay in their own slots as far as possible.

    Sources: Li, Yosinski, Clune, Lipson, Hopcroft, "Convergent learning" (2016); Ainsworth,
    Hayase, Srinivasa, "Git Re-Basin" (2023); Jordan, Sedghi, Saukh, Entezari, Neyshabur, "REPAIR"
    (2023).

    Args:
        a: the network that stays; any module whose forward pass can be traced.
        b: the network whose units move.  Neither is changed; both run in eval mode.  If one of them
            is on a GPU, both run there, in copies.
        data: the training images are looked at; or a split.
        cost: see above.
        images: how many of them: a random part with equally many of every class (as far as there
            are so many), since the first images of a sorted file would show a few classes only.
        spec: of both networks; traced from A when None.
        example: one input for the traces; the first of the images when None.
        seed: which images.
        batch_size: how many at once: the result does not depend on it, but for rounding in the
            forward pass.  By default 512, or fewer where activations are large.
        progress: whether to show a bar.

    Returns:
        The alignment.  Its objective is the sum of the gains over all units, where they were and
        where they are.  Facts: `images`, how many were looked at, and `unseen`, the spaces none of
        whose units are multiplied by a weight, which keep their order.

    Raises:
        TypeError: for arguments of another kind.
        UnknownNameError: for an unknown cost.
        IncompatibleError: for networks that are not of one architecture, or do not run the same
            operations, or a spec of another one.
        ValueError: for weights or activations that are not finite, no images, or fewer images than
            classes.
    """
    if cost not in COSTS:
        raise UnknownNameError("cost", cost, COSTS)
    x = _images(data, images, seed)
    for model in (a, b):
        expect(model, nn.Module, "a torch.nn.Module")
    if example is None:
        example = _like(x[:1], a)
    spec = check_networks([a, b], spec, example)
    sites = find_sites(a, spec, example)
    models = _on_one_device(a, b)
    seen = _Seen(spec, sites, _first(models[0]).device)
    seen.watch(models, x, batch_size, progress)
    # the same permutation as for `dot`, and the assignment is found far sooner
    p = best_element(spec, _own_slots_first(seen.gains("distance" if cost == "dot" else cost)))
    gains = seen.gains(cost)
    values = [_value(spec, gains, q) for q in (spec.identity(), p)]
    facts = {"images": len(x), "unseen": sites.unseen}
    return aligned(b, p, spec, values, "activation matching", **facts)


def balanced(y: Tensor, count: int, seed: int = 0) -> Tensor:
    """A random part of a data set with equally many of every class.

    A class that has too few gives all it has, and the others make up for it; what cannot be
    divided goes to classes drawn by lot.

    Args:
        y: labels, `[n]`.
        count: how many to choose; all when there are no more.
        seed: which.

    Returns:
        The chosen positions, increasing, int64 on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    labels = torch.unique(y.cpu(), return_inverse=True)[1][order]
    sizes = torch.bincount(labels)
    lots = torch.randperm(len(sizes), generator=generator)
    quota = torch.zeros_like(sizes)
    rest = min(count, len(y))
    while rest:
        open_ = lots[quota[lots] < sizes[lots]]
        share = torch.full((len(open_),), rest // len(open_))
        share[: rest % len(open_)] += 1
        given = torch.minimum(share, (sizes - quota)[open_])
        quota[open_] += given
        rest -= int(given.sum())
    chosen = [order[labels == c][: quota[c]] for c in range(len(sizes))]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *chosen]).sort().values


def _images(data: Data | Split, count: int, seed: int) -> Tensor:
    """The images that are looked at."""
    if not isinstance(data, Data | Split):
        raise TypeError(f"expected data, or a split of it, found {type(data).__name__}")
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"expected a whole number from 1 of images, found {count!r}")
    split = data.train if isinstance(data, Data) else data
    if len(split) == 0:
        raise ValueError("expected training images to match activations on, found none")
    classes = len(data.classes) if isinstance(data, Data) else len(split.y.unique())
    if min(count, len(split)) < classes:
        raise ValueError(
            f"expected at least one image for each of {classes} classes, found "
            f"{min(count, len(split))} of {len(split)}"
        )
    return split.x[balanced(split.y, int(count), seed).to(split.x.device)]


@dataclass
class _Reader:
    """Reads the units of one class off an activation, as rows.

    Attributes:
        standing: where they stand.
        number: of the class.
        inside: which units of the class, increasing.
        order: for each of them its positions, `[n, r]`.
    """

    standing: Standing
    number: int
    inside: np.ndarray
    order: Tensor

    @classmethod
    def of(cls, spec: PermutationSpec, s: Standing, device: torch.device) -> _Reader:
        units, rank = s.units.reshape(-1), s.rank.reshape(-1)
        at = np.flatnonzero(units >= 0)
        at = at[np.lexsort((rank[at], units[at]))]
        found, counts = np.unique(units[at], return_counts=True)
        if counts.min() < counts.max():  # as many positions of each as all have
            first = np.repeat(np.cumsum(counts) - counts, counts)
            at = at[np.arange(len(at)) - first < counts.min()]
        number = int(np.searchsorted(spec.starts, found[0], side="right")) - 1
        order = torch.from_numpy(at.reshape(len(found), -1)).to(device)
        return cls(s, number, found - spec.starts[number], order)

    def rows(self, x: Tensor) -> Tensor:
        """The activations `[rows, units]`; may share the memory of `x`."""
        s, (n, r) = self.standing, self.order.shape
        if s.others:
            x = x.mean(s.others, keepdim=True)
        x = x.movedim(s.axes, tuple(range(-len(s.axes), 0))).flatten(-len(s.axes))
        x = x.reshape(-1, x.shape[-1])
        flat = self.order.reshape(-1)
        if len(flat) < x.shape[1] or bool((flat[1:] != flat[:-1] + 1).any()):
            x = x.index_select(1, flat)
        x = x.reshape(-1, n, r)
        return x.mean(2) if s.mixed else x.transpose(1, 2).reshape(-1, n)


class _Seen:
    """What was seen of the units of A and B at their sites.

    Args:
        spec: of both networks.
        sites: of both.
        device: where the networks run.
    """

    def __init__(self, spec: PermutationSpec, sites: Sites, device: torch.device):
        self.spec, self.sites = spec, sites
        self.places = {(site.member, i): site for site in sites for i in range(len(site.slots))}
        self.readers = {
            (member, i): _Reader.of(spec, site.slots[i], device)
            for (member, i), site in self.places.items()
        }
        self.moments = {key: Moments() for key in self.places}

    def watch(
        self, models: tuple[nn.Module, nn.Module], x: Tensor, batch_size: int | None, progress: bool
    ) -> None:
        """Run both networks on the same images, batch by batch."""
        held: list[Tensor] = []

        def hold(site: Site, tensor: Tensor) -> None:
            for i in range(len(site.slots)):
                rows = self.readers[site.member, i].rows(tensor)
                shared = rows.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
                held.append(rows.clone() if shared else rows)  # it may be written into later

        def compare(site: Site, tensor: Tensor) -> None:
            for i in range(len(site.slots)):
                key = (site.member, i)
                self.moments[key].add(held.pop(0), self.readers[key].rows(tensor))

        first = [_like(x[:1], model) for model in models]
        libraries = all(fits(m, self.sites, y) for m, y in zip(models, first, strict=True))
        if batch_size is None:
            batch_size = _fitting(models[0], self.sites, first[0], libraries)
        with Bar(len(x), "activations", progress) as bar:
            for batch in x.split(batch_size):
                for model, see in zip(models, (hold, compare), strict=True):
                    replay(model, self.sites, _like(batch, model), see, libraries)
                bar.advance(len(batch))

    def gains(self, cost: str) -> dict[int, np.ndarray]:
        """For every class that has a site the similarity of its units, the mean over members.

        Raises:
            ValueError: for activations that are not finite.
        """
        total: dict[int, np.ndarray] = {}
        members: dict[int, int] = {}
        for key, reader in self.readers.items():
            similarity = self.moments[key].similarity(cost).cpu().numpy()
            if not np.isfinite(similarity).all():
                raise ValueError(
                    f"expected finite activations, found NaN or infinite ones ({self.places[key]})"
                )
            k, n = reader.number, self.spec.classes[reader.number].size
            units = np.ix_(reader.inside, reader.inside)
            total.setdefault(k, np.zeros((n, n)))[units] += similarity
            members[k] = members.get(k, 0) + 1
        return {k: gain / members[k] for k, gain in total.items()}


def _fitting(model: nn.Module, sites: Sites, x: Tensor, libraries: bool) -> int:
    """How many images' activations fit into memory."""
    size = 1

    def see(site: Site, tensor: Tensor) -> None:
        nonlocal size
        size += tensor.numel() * tensor.element_size()

    replay(model, sites, x, see, libraries)
    return max(1, min(_BATCH, _MEMORY.get(x.device.type, _LARGE_MEMORY) // size))


def _own_slots_first(gains: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The gains, so little larger for a unit's own slot that only ties are decided by it."""
    return {k: g + _TIE * np.abs(g).max() * np.eye(len(g)) for k, g in gains.items()}


def _value(spec: PermutationSpec, gains: dict[int, np.ndarray], p: Permutation) -> float:
    """`Σ_k Σ_i gain_k[i, p_k(i)]`."""
    element, total = spec.element(p), 0.0
    for k, gain in gains.items():
        own = element[spec.starts[k] : spec.starts[k + 1]] - spec.starts[k]
        total += float(gain[np.arange(len(own)), own].sum())
    return total


def _first(model: nn.Module) -> Tensor:
    """A weight, for its device and type; floating-point if there is one."""
    every = [*model.parameters(), *model.buffers()]
    return next((x for x in every if x.is_floating_point()), torch.zeros(0))


def _like(x: Tensor, model: nn.Module) -> Tensor:
    """Inputs on the network's device, and if they are floating-point, of its type."""
    first = _first(model)
    return x.to(first) if x.is_floating_point() else x.to(first.device)


def _on_one_device(a: nn.Module, b: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both where one of them is, if possible not on the CPU; copies of what has to move."""
    devices = [_first(model).device for model in (a, b)]
    device = devices[1] if devices[0].type == "cpu" else devices[0]
    moved = [m if d == device else copied(m).to(device)
             for m, d in zip((a, b), devices, strict=True)]  # fmt: skip
    return moved[0], moved[1]
