import pytest
import torch

from artgan.metrics.originality import nearest, thumbnails


def points(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_each_sample_gets_its_nearest_painting_and_the_nearest_come_first() -> None:
    copies = nearest(points(0.5, 9.9, 3.0), points(0.0, 10.0, 4.0))
    assert copies.neighbours.tolist() == [0, 1, 2]
    assert copies.order.tolist() == [1, 0, 2]


def test_figures_of_a_line_of_points_are_those_worked_out_by_hand() -> None:
    training, held_out = points(0, 10, 20), points(1, 12, 23)
    figures = nearest(points(0.5, 10.5, 26), training, held_out=held_out).scores
    assert figures["distance"] == pytest.approx(0.5)
    assert figures["distance of paintings"] == pytest.approx(10)
    assert figures["distance of held-out paintings"] == pytest.approx(2)  # of 1, 2 and 3
    assert figures["ratio"] == pytest.approx(0.25)
    assert figures["near"] == pytest.approx(2 / 3)  # below 1.1, the 5 % quantile of 1, 2 and 3


def test_without_held_out_paintings_each_is_compared_with_the_others() -> None:
    figures = nearest(points(5), points(0, 10, 30)).scores
    assert figures["distance of paintings"] == pytest.approx(10)
    assert figures["ratio"] == pytest.approx(0.5)
    assert "distance of held-out paintings" not in figures


def test_mirror_images_are_searched_too_but_are_no_other_paintings() -> None:
    training, mirrored = points(0, 10, 30), points(1, 14, 32)
    copies = nearest(points(14.5, 9), training, mirrored, points(33))
    assert copies.neighbours.tolist() == [4, 1]
    # From 0 to 10, from 10 to 1, and from 30 to 14.
    assert copies.scores["distance of paintings"] == pytest.approx(10)
    assert copies.scores["distance of held-out paintings"] == pytest.approx(1)


def test_squares_of_one_painting_are_no_other_paintings() -> None:
    """Two squares each of three paintings; by itself, each would have one at a distance of 1."""
    training, of = points(0, 1, 10, 11, 30, 31), torch.tensor([7, 7, 2, 2, 5, 5])
    figures = nearest(points(2), training, paintings=of).scores
    # From 0 and 1 to 10, from 10 and 11 to 1, from 30 and 31 to 11: 10, 9, 9, 10, 19 and 20.
    assert figures["distance of paintings"] == pytest.approx(10)
    mirrored = nearest(points(2), training, training + 0.5, paintings=of).scores
    assert mirrored["distance of paintings"] == pytest.approx(9.5)  # 10, 9, 8.5, 9.5, 18.5, 19.5


def test_squares_of_a_single_painting_are_compared_with_each_other() -> None:
    figures = nearest(points(2), points(0, 1, 3), paintings=torch.zeros(3)).scores
    assert figures["distance of paintings"] == pytest.approx(1)


def test_copies_are_found_and_new_paintings_are_not() -> None:
    random = torch.Generator().manual_seed(0)
    paintings = torch.randint(0, 256, (1500, 3, 32, 32), dtype=torch.uint8, generator=random)
    noise = torch.randint(0, 3, (200, 3, 32, 32), dtype=torch.uint8, generator=random)
    copies = thumbnails(paintings[:200] // 4 * 4 + noise)
    training, held_out, new = thumbnails(paintings).split([1100, 200, 200])
    copied = nearest(copies, training, held_out=held_out)
    assert copied.scores["near"] == 1
    assert copied.scores["ratio"] < 0.2
    assert copied.neighbours.tolist() == list(range(200))
    fresh = nearest(new, training, held_out=held_out)
    assert fresh.scores["ratio"] == pytest.approx(1, abs=0.05)
    assert fresh.scores["near"] == pytest.approx(0.05, abs=0.05)
