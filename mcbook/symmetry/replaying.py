"""The activations of a network at its sites, handed over while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import IncompatibleError
from .activations import Site, Sites
from .context import Call, Rule
from .flow import PRODUCTS, Flow
from .tracing import follow

__all__ = ["fits", "replay"]


class _Replay:
    """Counts the operations of a forward pass, and hands over what stands at the sites."""

    def __init__(self, sites: Sites, x: Any, see: Callable[[Site, Tensor], None]):
        self.module = ""
        self.flow = Flow(x)
        self.see, self.expected = see, sites.operations
        self._busy = False
        self._sites: dict[int, list[Site]] = {}
        for site in sites:
            self._sites.setdefault(site.index, []).append(site)

    def is_constant(self, tensor: Tensor) -> bool:
        """Of no interest here."""
        return False

    def record(self, rule: Rule, name: str, call: Call) -> None:
        """An operation has just been computed."""
        if self._busy:  # it is one of `see`
            return
        index = self.flow.count(name, self.module, call)
        if index is not None:
            self._compare(index, (name, self.module))
            for site in self._sites.get(index, ()):
                x = call.outputs[0] if site.place < 0 else self.flow.among(call)[site.place]
                self._hand_over(site, x)
        self.flow.mark(call)

    def record_in_place(self, rule: Rule, name: str, call: Call, old: Tensor | None) -> None:
        """The same for one that wrote into its first argument."""
        self.record(rule, name, call)

    def _hand_over(self, site: Site, x: Tensor) -> None:
        more = x.ndim - len(site.shape)
        if more > 0:  # products take any number of axes before the last
            x = x.flatten(0, more)
        elif more < 0:
            x = x.reshape(*(1,) * -more, *x.shape)
        if x.ndim != len(site.shape) or any(x.shape[a] != site.shape[a] for a in site.axes):
            raise IncompatibleError(
                f"expected a tensor like {list(site.shape)}, with units on the axes "
                f"{list(site.axes)}, as on the example, found {list(x.shape)} ({site}); where "
                f"units and inputs share an axis, give one input at a time"
            )
        self._busy = True
        try:
            self.see(site, x)
        finally:
            self._busy = False

    def _compare(self, index: int, found: tuple[str, str] | None) -> None:
        expected = self.expected[index] if index < len(self.expected) else None
        if found is None or expected is None or not _alike(found, expected):
            raise IncompatibleError(
                f"expected the forward pass to multiply by weights as it does on the example, "
                f"found as number {index + 1} {_said(found)} instead of {_said(expected)}"
            )

    def finish(self) -> None:
        """The forward pass is over."""
        if len(self.flow.operations) < len(self.expected):
            self._compare(len(self.flow.operations), None)


def _alike(found: tuple[str, str], expected: tuple[str, str]) -> bool:
    """Whether two operations are the same; which product it is may depend on the batch."""
    kinds = ["product" if name in PRODUCTS else name for name, _ in (found, expected)]
    return kinds[0] == kinds[1] and found[1] == expected[1]


def _said(operation: tuple[str, str] | None) -> str:
    return "nothing" if operation is None else " in ".join(part for part in operation if part)


def replay(
    model: nn.Module,
    sites: Sites,
    x: Any,
    see: Callable[[Site, Tensor], None],
    libraries: bool = True,
) -> None:
    """Run a network in eval mode, and hand over the tensors at the sites.

    Args:
        model: the network that the sites are of, or another of its architecture; it is afterwards
            as before.
        sites: from `find_sites`.
        x: the input, as `trace_symmetry` takes it, but a batch of any size.
        see: called with a site and its tensor at the moment it is read: what later writes into the
            tensor has not happened yet.
        libraries: whether the kernels of cuDNN and oneDNN may be used, which are quicker; `fits`
            says whether they do.

    Raises:
        IncompatibleError: when the forward pass does not multiply by weights as on the example.
    """
    recorder = _Replay(sites, x, see)
    follow(model, recorder, x, libraries)
    recorder.finish()


def fits(model: nn.Module, sites: Sites, x: Any) -> bool:
    """Whether the kernels of cuDNN and oneDNN leave the operations as they are on the example.

    Their recurrent layers do not: they are one operation.
    """
    try:
        replay(model, sites, x, lambda site, tensor: None)
    except IncompatibleError:
        return False
    return True
