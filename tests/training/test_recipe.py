import re
from collections.abc import Callable
from typing import Any

import pytest

from artgan.errors import UserError
from artgan.options import TrainConfig
from artgan.training.recipe import check_model
from tests.helpers import EVERYTHING, THE_OTHERS

ADAPTED = {"augment": "[cutout]", "augment_target": 0.6}


def model(**options: Any) -> dict[str, Any]:
    return {f"model__{key}": value for key, value in options.items()}


@pytest.mark.parametrize("options", [{}, EVERYTHING, THE_OTHERS, model(**ADAPTED, loss="hinge")])
def test_options_that_fit_together_are_accepted(
    configure: Callable[..., TrainConfig], options: dict[str, Any]
) -> None:
    check_model(configure(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "[cutuot]"}, "augment: 'cutuot' is none of color, translation, cutout."),
        ({"augment_target": 0.6}, "augment_target: .* Add model.augment=[translation,cutout]"),
        (ADAPTED | {"augment_probability": 0.5}, "augment_probability: is adapted"),
        (ADAPTED | {"loss": "lsgan"}, "augment_target: .* choose model.loss=bce or hinge or rpgan"),
        ({"loss": "wgan_gp", "normalization": "none"}, "loss: .* Add model.gradient_penalty=10"),
        ({"r1": 1}, "r1: .* Add model.normalization=none"),
        ({"gradient_penalty": 10}, "gradient_penalty: .* Add model.normalization=none"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing: .* model.loss=bce or lsgan"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_option_to_set(
    configure: Callable[..., TrainConfig], options: dict[str, Any], message: str
) -> None:
    pattern = re.escape(f"model.{message}").replace(r"\.\*", ".*")
    with pytest.raises(UserError, match=f"^{pattern}"):
        check_model(configure(**model(**options)))
