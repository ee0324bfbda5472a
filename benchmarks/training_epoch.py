"""One epoch of a perceptron on MNIST: `mc.train` against the usual loop.

The usual loop is the one of PyTorch's and torchvision's examples: a dataset
that turns each image into a PIL image, `ToTensor` and `Normalize` for each of
them, a DataLoader, and a plain loop.  Both ways normalise, train with SGD and
momentum on the same images in batches of one size, add up the loss and the
hits, and evaluate the test set after the epoch.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import mcbook as mc

from .harness import Result, compare
from .images import images

NAME = "training_epoch"
USUAL, OURS, LOW = "transforms, DataLoader, loop", "mc.train", "mc.train in bfloat16"
TARGET = 2.5
_BATCH, _LR, _MOMENTUM = 128, 0.05, 0.9


class _UsualImages(Dataset):
    """Images as torchvision's data sets keep them, transformed one by one."""

    def __init__(self, x: Tensor, y: Tensor):
        transforms = mc.models.library("torchvision").transforms
        self.pixels = (255 * x[:, 0]).round().to(torch.uint8)
        self.labels = y
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        picture = Image.fromarray(self.pixels[index].numpy())
        return self.transform(picture), int(self.labels[index])


def _usual_epoch(train: _UsualImages, test: _UsualImages, model: nn.Module) -> dict[str, float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=_LR, momentum=_MOMENTUM)
    row = {}
    total, right = 0.0, 0
    model.train()
    for x, y in DataLoader(train, batch_size=_BATCH, shuffle=True):
        optimizer.zero_grad()
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
        right += (logits.argmax(1) == y).sum().item()
    row["train_loss"], row["train_accuracy"] = total / len(train), right / len(train)
    total, right = 0.0, 0
    model.eval()
    with torch.no_grad():
        for x, y in DataLoader(test, batch_size=1000):
            logits = model(x)
            total += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(1) == y).sum().item()
    row["test_loss"], row["test_accuracy"] = total / len(test), right / len(test)
    return row


def run(rounds: int = 5, smoke: bool = False, clock: str = "wall") -> Result:
    """Time one epoch each way.

    Args:
        rounds: how often.
        smoke: on so few images that it only shows that everything runs.
        clock: "wall" or "cpu".

    Returns:
        The result.
    """
    data, said = images("mnist", *((300, 100) if smoke else (60_000, 10_000)))
    width = (32, 32, 32) if smoke else (512, 512, 512)
    train, test = (_UsualImages(split.x, split.y) for split in (data.train, data.test))
    rows: dict[str, dict[str, float]] = {}

    # as usual: the data set normalises; as here: the network does
    bare = mc.build_model("mlp", data, width=width)
    standardizing = mc.build_model("mlp", data, width=width, standardize=True)

    def usual() -> None:
        rows[USUAL] = _usual_epoch(train, test, copy.deepcopy(bare))

    def ours(way: str, precision: str) -> None:
        recipe = {"batch_size": _BATCH, "lr": _LR, "momentum": _MOMENTUM, "precision": precision}
        model = mc.train(standardizing, data, epochs=1, progress=False, **recipe)
        rows[way] = model.history.iloc[0].to_dict()

    ways = {
        USUAL: usual,
        OURS: lambda: ours(OURS, "float32"),
        LOW: lambda: ours(LOW, "bfloat16"),
    }
    comparison = compare(ways, USUAL, rounds, warmups=int(smoke), clock=clock)
    sizes = "-".join(map(str, (784, *width, 10)))
    return Result(
        NAME,
        f"one epoch of an MLP {sizes}, batches of {_BATCH}, and a test",
        said,
        comparison,
        {} if smoke else {OURS: TARGET},
        notes=tuple(
            f"{way}: train loss {row['train_loss']:.3f}, test loss {row['test_loss']:.3f}, "
            f"test accuracy {100 * row['test_accuracy']:.1f} %"
            for way, row in rows.items()
        ),
    )
