"""`tcformer flops` prints the published form, then what is executed."""

import pytest

from tcformer.cli import main
from tcformer.cli.flops import scaled


def test_printed_form(capsys):
    assert main(["flops", "tcformer_light"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == ["=" * 30, "Flops: 3.84 GFLOPs", "Params: 14.23 M", "=" * 30]
    executed = next(line for line in lines if line.startswith("Executed: "))
    assert executed.split()[2] == "G"
    assert 1 < float(executed.split()[1]) < 10


def test_one_number_means_a_square(capsys):
    assert main(["flops", "tcformer_nano", "--shape", "32"]) == 0
    square = capsys.readouterr().out
    assert "32 x 32 pixels" in square
    assert main(["flops", "tcformer_nano", "--shape", "32", "32"]) == 0
    assert capsys.readouterr().out == square


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--shape", "1", "2", "3"], "one or two positive numbers"),
        (["--shape", "0"], "one or two positive numbers"),
        (["--shape", "99999999", "9"], "the limit is 4 million pixels"),
        (["--shpe", "3"], "did you mean --shape"),
        (["tcformer_lihgt"], "tcformer_light"),
    ],
)
def test_mistakes_are_one_sentence(args, says, capsys):
    assert main(["flops", *args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error


def test_scaled_picks_the_unit():
    assert scaled(3_840_500_000) == "3.84 G"
    assert scaled(14_231_659) == "14.23 M"
    assert scaled(999) == "1.00 K"
    assert scaled(14_231_659, unit="G") == "0.01 G"
