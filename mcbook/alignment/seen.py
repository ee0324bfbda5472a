"""What the hidden units of two networks do on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Data, Split
from ..progress import Bar
from ..symmetry.activations import Site, Sites, Standing
from ..symmetry.examples import copied
from ..symmetry.replaying import fits, replay
from ..symmetry.spec import PermutationSpec
from .moments import Moments

__all__ = ["Reader", "Seen", "balanced", "balanced_images", "like", "on_one_device"]

# what A's activations on one batch may take on a CPU (the less, the more stays in its cache) and
# elsewhere, and how many images a batch has at most
_MEMORY = {"cpu": 2**26}
_LARGE_MEMORY = 2**30
_BATCH = 512


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


def balanced_images(data: Data | Split, count: int, seed: int, split: str = "train") -> Tensor:
    """The images that are looked at: a random part, with equally many of every class.

    Args:
        data: with the split; or one.
        count: how many; all when there are no more.
        seed: which.
        split: of the data.

    Raises:
        TypeError: for something else.
        ValueError: for no images, or fewer than classes.
    """
    if not isinstance(data, Data | Split):
        raise TypeError(f"expected data, or a split of it, found {type(data).__name__}")
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"expected a whole number from 1 of images, found {count!r}")
    part = data.split(split) if isinstance(data, Data) else data
    if len(part) == 0:
        raise ValueError(
            f"expected {'training' if split == 'train' else 'test'} images to match activations "
            f"on, found none"
        )
    classes = len(data.classes) if isinstance(data, Data) else len(part.y.unique())
    if min(count, len(part)) < classes:
        raise ValueError(
            f"expected at least one image for each of {classes} classes, found "
            f"{min(count, len(part))} of {len(part)}"
        )
    return part.x[balanced(part.y, int(count), seed).to(part.x.device)]


@dataclass
class Reader:
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
    def of(cls, spec: PermutationSpec, s: Standing, device: torch.device) -> Reader:
        """What reads the units that stand there, of one class; as many positions of each."""
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


class Seen:
    """What was seen of the units of A and B at their sites.

    Args:
        spec: of both networks.
        sites: of both.
        model: one of both, for the device where they run.
    """

    def __init__(self, spec: PermutationSpec, sites: Sites, model: nn.Module):
        self.spec, self.sites = spec, sites
        device = _first(model).device
        self.places = {(site.member, i): site for site in sites for i in range(len(site.slots))}
        self.readers = {
            (member, i): Reader.of(spec, site.slots[i], device)
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

        first = [like(x[:1], model) for model in models]
        libraries = all(fits(m, self.sites, y) for m, y in zip(models, first, strict=True))
        if batch_size is None:
            batch_size = _fitting(models[0], self.sites, first[0], libraries)
        with Bar(len(x), "activations", progress) as bar:
            for batch in x.split(batch_size):
                for model, see in zip(models, (hold, compare), strict=True):
                    replay(model, self.sites, like(batch, model), see, libraries)
                bar.advance(len(batch))

    def gains(self, cost: str) -> dict[int, np.ndarray]:
        """For every class that has a site the similarity of its units, the mean over members.

        Raises:
            ValueError: for activations that are not finite.
        """
        total: dict[int, np.ndarray] = {}
        members: dict[int, int] = {}
        for key, reader in self.readers.items():
            similarity = self.similarity(key, cost)
            k, n = reader.number, self.spec.classes[reader.number].size
            units = np.ix_(reader.inside, reader.inside)
            total.setdefault(k, np.zeros((n, n)))[units] += similarity
            members[k] = members.get(k, 0) + 1
        return {k: gain / members[k] for k, gain in total.items()}

    def similarity(self, key: tuple[int, int], cost: str) -> np.ndarray:
        """How alike A's and B's units are at one place, `[n, n]`, in the order of its reader.

        Raises:
            ValueError: for activations that are not finite.
        """
        similarity: np.ndarray = self.moments[key].similarity(cost).cpu().numpy()
        if not np.isfinite(similarity).all():
            raise ValueError(
                f"expected finite activations, found NaN or infinite ones ({self.places[key]})"
            )
        return similarity


def _fitting(model: nn.Module, sites: Sites, x: Tensor, libraries: bool) -> int:
    """How many images' activations fit into memory."""
    size = 1

    def see(site: Site, tensor: Tensor) -> None:
        nonlocal size
        size += tensor.numel() * tensor.element_size()

    replay(model, sites, x, see, libraries)
    return max(1, min(_BATCH, _MEMORY.get(x.device.type, _LARGE_MEMORY) // size))


def _first(model: nn.Module) -> Tensor:
    """A weight, for its device and type; floating-point if there is one."""
    every = [*model.parameters(), *model.buffers()]
    return next((x for x in every if x.is_floating_point()), torch.zeros(0))


def like(x: Tensor, model: nn.Module) -> Tensor:
    """Inputs on the network's device, and if they are floating-point, of its type."""
    first = _first(model)
    return x.to(first) if x.is_floating_point() else x.to(first.device)


def on_one_device(a: nn.Module, b: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Both where one of them is, if possible not on the CPU; copies of what has to move."""
    devices = [_first(model).device for model in (a, b)]
    device = devices[1] if devices[0].type == "cpu" else devices[0]
    moved = [m if d == device else copied(m).to(device)
             for m, d in zip((a, b), devices, strict=True)]  # fmt: skip
    return moved[0], moved[1]
