"""Training ResNet20 on images of CIFAR's size: options of `mc.train` against none."""

from __future__ import annotations

import mcbook as mc

from .harness import Result, compare, has_amx
from .images import images

NAME = "resnet_epoch"
PLAIN, LAST, LOW = "plain", "channels_last", "channels_last and bfloat16"
_BATCH = 128


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time one epoch on a cut number of images.

    Args:
        rounds: how often.
        smoke: on so few images that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result; without AMX, bfloat16 has no target.
    """
    count = 16 if smoke else 1_280
    data, said = images("cifar10", count, 16)
    model = mc.build_model("resnet20", data, **({"width": 4} if smoke else {}))

    def epoch(**options: object) -> None:
        mc.train(model, data, epochs=1, progress=False, batch_size=_BATCH, **options)

    ways = {
        PLAIN: epoch,
        LAST: lambda: epoch(channels_last=True),
        LOW: lambda: epoch(channels_last=True, precision="bfloat16"),
    }
    amx = has_amx()
    note = "this processor has AMX" if amx else "no AMX seen: bfloat16 may be slower here"
    comparison = compare(ways, PLAIN, rounds, warmups=1, clock=clock)
    return Result(
        NAME,
        f"{count:,} training images through ResNet20, batches of {_BATCH}",
        said,
        comparison,
        {LOW: 2.0} if amx and not smoke else {},
        notes=(note,),
    )
