"""The guess at what somebody meant."""

import pytest

from tcformer.errors import UserError, nearest


def test_it_is_a_value_error():
    with pytest.raises(ValueError, match="mend it"):
        raise UserError("it is broken; mend it.")


@pytest.mark.parametrize(
    ("word", "guess"), [("drop_pth", "drop_path"), ("lrr", "lr"), ("xyzzy", None), ("", None)]
)
def test_nearest(word, guess):
    assert nearest(word, iter(["lr", "drop_path", "batch_size"])) == guess
