"""The guess at what somebody meant."""

import pytest

from tcformer.errors import UserError, nearest


def test_it_is_a_value_error():
    with pytest.raises(ValueError, match="mend it"):
        raise UserError("it is broken; mend it.")


def test_what_a_message_quotes_does_not_make_it_endless():
    names = str(UserError(f"a/b.json names {'x' * 100_000}; write it again."))
    assert len(names) < 2100
    assert names.startswith("a/b.json names ")
    assert names.endswith("; write it again.")


@pytest.mark.parametrize(
    ("word", "guess"), [("drop_pth", "drop_path"), ("lrr", "lr"), ("xyzzy", None), ("", None)]
)
def test_nearest(word, guess):
    assert nearest(word, iter(["lr", "drop_path", "batch_size"])) == guess
