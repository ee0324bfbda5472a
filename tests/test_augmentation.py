from __future__ import annotations

import pytest
import torch

from mcbook.augmentation import flip_and_crop
from tests import reference


@pytest.mark.parametrize(("shape", "padding"), [((2, 5, 4), 1), ((1, 3, 3), 2), ((1, 4, 4), 0)])
def test_every_image_is_some_flipped_window_and_all_windows_come(
    shape: tuple[int, int, int], padding: int
) -> None:
    image = torch.arange(1.0, 1 + shape[0] * shape[1] * shape[2]).reshape(shape)
    shifts = range(2 * padding + 1)
    windows = {
        tuple(reference.crop(image, dy, dx, flip, padding).flatten().tolist()): (dy, dx, flip)
        for dy in shifts
        for dx in shifts
        for flip in (False, True)
    }
    assert len(windows) == 2 * len(shifts) ** 2
    torch.manual_seed(0)
    count = 100 * len(windows)
    out = flip_and_crop(image.expand(count, *shape), padding)
    assert out.shape == (count, *shape)
    drawn = [windows[tuple(one)] for one in out.flatten(1).tolist()]
    assert set(drawn) == set(windows.values())
    # each about a hundred times: all are equally likely, and drawn independently
    for window in windows.values():
        assert 50 < drawn.count(window) < 160


def test_the_default_padding_is_four() -> None:
    torch.manual_seed(0)
    out = flip_and_crop(torch.ones(500, 1, 6, 6))
    blank = (out[:, 0] == 0).all(2).sum(1)  # rows that came from the padding
    assert int(blank.max()) == 4


def test_it_draws_from_the_global_generator_and_changes_no_input() -> None:
    x = torch.rand(20, 1, 8, 8)
    before = x.clone()
    torch.manual_seed(1)
    first, second = flip_and_crop(x), flip_and_crop(x)
    torch.manual_seed(1)
    assert torch.equal(flip_and_crop(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(x, before)


def test_images_are_drawn_for_one_by_one() -> None:
    torch.manual_seed(2)
    out = flip_and_crop(torch.arange(64.0).reshape(1, 1, 8, 8).expand(64, 1, 8, 8))
    assert len({tuple(image) for image in out.flatten(1).tolist()}) > 40
