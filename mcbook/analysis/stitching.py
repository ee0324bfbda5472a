"""Stitching: the lower half of one network, continued by the upper half of another."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from torch import Tensor, nn

from ..data import Split
from ..errors import expect
from ..evaluation import evaluate, score
from ..paths.linear import LinearPath
from ..progress import Bar
from .layer_matrices import check_pair
from .observing import batches_of, checked_inputs, find_calls, observe

__all__ = ["stitch"]


def stitch(
    a: nn.Module,
    b: nn.Module,
    split: Split,
    layers: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    r"""Let B go on with the features of A, at every layer in turn.

    With :math:`B_{>l}` what B computes from the output of layer :math:`l`, and :math:`f_l(A; x)`
    that output in A, the stitched network is :math:`B_{>l}(f_l(A; x))`; nothing is trained.
    (Lenc and Vedaldi 2015; without an adapter as in Zhou et al. 2023, section 5.)  Stitched at the
    last layer it is A, at the images it is B.

    Only the layer's output is replaced.  In a network with skip connections other ways lead past
    most layers, and along these B hears itself: name the ends of its blocks in `layers` then.

    Args:
        a: the network whose features are taken.
        b: the network that goes on with them, of the same architecture.
        split: images and labels, `data.test` for instance.
        layers: names of modules, or of single calls of them; by default every linear layer,
            convolution and activation that is a module.
        batch_size: how many images at once; the results do not depend on it, up to rounding.
        progress: whether to show a bar.

    Returns:
        A row for each layer in the order of the forward pass, after one for the images
        (`layer` is `images`, `kind` is `input`), at which all is B: `layer`, `kind`, `loss` (mean
        cross-entropy, nats) and `accuracy`.

    Raises:
        TypeError: when `split` is no Split, and see `feature_connectivity`.
        IncompatibleError: when the networks are not of one architecture.
        UnknownNameError: for a layer that is not there; offers the close ones.
        ValueError: see `feature_connectivity`.

    Example:
        >>> import mcbook as mc
        >>> data = mc.load_data("digits", device="cpu")
        >>> a, b = (mc.build_model("mlp", data, seed=s) for s in (0, 1))
        >>> mc.stitch(a, b, data.test)["accuracy"].iloc[-1] == mc.evaluate(a, data.test)[1]
        True
    """
    expect(split, Split, "a split, such as data.test")
    check_pair(a, b)
    path = LinearPath(a, b)
    start, end = path.model_at(0.0), path.model_at(1.0)
    x = checked_inputs(start, split.x)
    y = split.y.to(x.device)
    calls = find_calls(start, x, layers, ("linear", "activation"))
    losses, correct = [0.0] * len(calls), [0] * len(calls)
    parts = batches_of(x, calls, batch_size)
    batches = list(zip(parts, y.split(len(parts[0])), strict=True))
    with Bar(len(batches), "stitching", progress) as bar:
        for images, labels in batches:
            kept: dict[int, Tensor] = {}

            def keep(i: int, _: Tensor, z: Tensor, kept: dict[int, Tensor] = kept) -> None:
                kept[i] = z.clone()

            observe(start, calls, images, keep)
            for i, call in enumerate(calls):
                features = kept.pop(i)
                logits = observe(end, [call], images, lambda *_, z=features: z)
                loss, right = score(logits, labels)
                losses[i] += loss
                correct[i] += right
            bar.advance()
    loss, accuracy = evaluate(end, Split(x, y))
    rows = [{"layer": "images", "kind": "input", "loss": loss, "accuracy": accuracy}]
    rows += [
        {"layer": c.name, "kind": c.kind, "loss": loss / len(y), "accuracy": right / len(y)}
        for c, loss, right in zip(calls, losses, correct, strict=True)
    ]
    return pd.DataFrame(rows)
