"""Proximal alternating minimisation: the permutation, and then the curve, by the loss along it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..data import Data
from ..errors import expect
from ..progress import Bar
from ..runs import check_last_batch
from ..symmetry.permutations import Permutation
from ..symmetry.spec import PermutationSpec
from ..threads import one_thread
from .alignment import Alignment, check_networks
from .proximal_run import Options, Run

__all__ = ["proximal_alternating"]


def proximal_alternating(
    a: nn.Module,
    b: nn.Module,
    data: Data,
    steps: int = 600,
    lr: float = 1.0,
    optimizer: str = "sgd",
    schedule: str = "cosine",
    batch_size: int = 64,
    draws: int = 32,
    terms: int = 11,
    nu: float = 1000.0,
    points: int = 9,
    rounds: int = 1,
    curve_steps: int = 0,
    curve_recipe: Mapping[str, Any] | None = None,
    start: Alignment | Permutation | None = None,
    spec: PermutationSpec | None = None,
    example: Any = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Alignment:
    r"""Reorder B's hidden units so that the loss is low along the whole curve from A to π(B).

    Minimises, in turn over the permutation π and over the offset δ of the curve's bend from the
    midpoint,

    .. math::

        E_{t \sim U[0, 1]} \, L(\theta(t)), \qquad
        \theta(t) = (1 - t)^2 A + 2 t (1 - t) \bigl[\delta + \tfrac12 (A + \pi(B))\bigr]
            + t^2 \pi(B)
            = (1 - t) A + t \pi(B) + 2 t (1 - t) \delta ,

    so that the curve follows the permutation; with :math:`\delta = 0` it is the straight line.
    A round is:

    1. *The permutation, softened.*  Every space gets a matrix `P`, which acts as `P_out W P_inᵀ`;
       at first it is `P_old`, that of the permutation so far.  A step goes against the gradient
       for a minibatch and one `t`; then `P ← (P + (lr/ν) P_old) / (1 + lr/ν)`, which holds P near
       `P_old`, weakly (the proximal term); then P is brought to the doubly stochastic matrices
       (`project_doubly_stochastic`).
    2. *Rounding.*  Candidates are the old permutation, the one nearest to `P` (Hungarian method),
       and `draws` random ones: each matrix draws a permutation by its coefficient in the
       decomposition of Birkhoff and von Neumann (`birkhoff`).  The one with the lowest loss along
       the curve is taken; the old one unless another is lower.
    3. *The curve*, if `curve_steps` are given: `fit_curve` moves the bend from where it is.  The
       new bend is kept if the loss along the curve is lower with it.

    The loss along the curve is the mean over `points` values of `t`, `(i + 1/2) / points`, on at
    most 10,000 training images, with the batch-norm statistics measured at each.  While P is
    trained batch norm uses the statistics of the minibatch; everything else is in eval mode.

    Sources: Tatro, Chen, Das, Melnyk, Sattigeri, Lai, "Optimizing mode connectivity via neuron
    alignment" (2020).  Theirs are `lr=0.05` (all but constant), 20 epochs for P and 250 for the
    curve, batches of 128; ν, `terms` and `draws` are as here.  At that rate a small network's P
    stays near `P_old` for hundreds of steps, so that only the draws come away from it; a higher
    rate that falls to zero goes much further.

    Args:
        a: stays as it is.
        b: a network of the same architecture; it is not changed.
        data: the loss is that on its training images.
        steps: minibatches in which P is trained, in each round.
        lr: the learning rate of P.
        optimizer: of P: `sgd` (without momentum), `adam` or `adamw` (without weight decay).
        schedule: of `lr`: `constant`, `cosine` or `onecycle`, over one round.
        batch_size: images a step; of the curve too.
        draws: random candidates a round.
        terms: the largest terms of each decomposition that are drawn from.
        nu: ν, how weakly P is held; infinity does not hold it at all.
        points: how many `t` the candidates are measured at.
        rounds: how often all this is done.
        curve_steps: minibatches for the curve in each round; 0 for the straight line.
        curve_recipe: what else `fit_curve` is told, by name.
        start: an alignment or permutation to go on from; the identity when None.
        spec: of the architecture; traced from `a` when None.
        example: an input for the trace, where the networks carry none.
        seed: of the batches, the `t`, the draws and the curve.
        progress: whether to show bars.
        checkpoint: a file that keeps the run after every epoch and every round; if it is there,
            the run goes on.  The curve of a round has its own, `<stem>-curve<round>`, beside it.

    Returns:
        π(B) and its permutation, that of the start followed by all that was found.  `objective` is
        minus the loss along the curve at the start, then after every round that lowered it.  The
        facts:

        - `soft_loss`: with `P` of the last round in the place of a permutation.  With it B does not
          compute what it did: this says how far the relaxation came, and is the loss of no result.
          The least over all P is a lower bound for permutations; what the steps reach need not be;
        - `rounded_loss`: of the Hungarian candidate of the last round;
        - `losses`: a table with `round`, `candidate` (`old`, `hungarian`, `draw 1`, ..., and
          `curve`: the permutation that was taken, after the bend was fitted) and `loss`;
        - `history`: a table with `round`, `step`, `t` and `loss` (of the minibatch, with P);
        - `matrices`: P of the last round for each space, `[n, n]`, slots by units of B;
        - `fixed`: spaces that have no matrix and stay as they are, since other spaces lie in their
          units (the heads of attention: rows are exchanged inside each head, heads are not);
        - `path`, with `curve_steps`: the `BezierPath` from A to π(B).

    Raises:
        TypeError: for something that is no module, data, spec or start.
        IncompatibleError: for networks of different architectures, a spec or start of another one,
            or a checkpoint of another run.
        UnknownNameError: for an unknown optimizer or schedule.
        ValueError: for weights that are not finite, no images, or numbers no run can use.
        FloatingPointError: when the loss or P becomes NaN or infinite.
    """
    expect(data, Data, "data, as load_data or data_from_arrays gives them")
    if start is not None and not isinstance(start, (Alignment, Permutation)):
        raise TypeError(
            f"expected None, an Alignment or a Permutation as start, found {type(start).__name__}"
        )
    options = Options(
        steps, lr, optimizer, schedule, batch_size, draws, terms, nu, points, rounds, curve_steps,
        dict(curve_recipe or {}), seed,
    )  # fmt: skip
    options.check()
    if not len(data.train):
        raise ValueError("expected at least one training image, found none")
    spec = check_networks([a, b], spec, example)
    check_last_batch(a, len(data.train), batch_size)
    device = next(a.parameters()).device
    p = start.permutation if isinstance(start, Alignment) else start
    p = spec.identity() if p is None else p
    spec.element(p)  # refuses one of another network
    run = Run(a, b, data.to(device), spec, p, options)
    with one_thread():
        if not (checkpoint is not None and run.resume(checkpoint)):
            run.begin()
        with Bar(run.left(), "proximal", progress) as bar:
            while run.round < rounds:
                run.climb(bar, checkpoint)
                run.choose(bar)
                if curve_steps:
                    run.bend(progress, checkpoint)
                run.finish_round()
                if checkpoint is not None:
                    run.keep(checkpoint)
    return run.result()
