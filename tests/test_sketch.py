"""What a notebook shows for tokens: well-formed HTML, made without IPython and without Pillow."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from tcformer.sketch import sketch_html
from tcformer.tokens import Tokens, grid_layout
from tcformer.zoo import create_model

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def stages():
    torch.manual_seed(0)
    with torch.inference_mode():
        return create_model("tcformer_nano").eval().forward_tokens(torch.randn(5, 3, 48, 80))


def test_tokens_show_a_path_for_every_token_of_the_first_images(stages):
    for tokens in stages:
        root = ET.fromstring(tokens._repr_html_())
        pictures = root.findall(f"{SVG}svg")
        assert len(pictures) == 4
        for image, picture in enumerate(pictures):
            cells = np.bincount(tokens.layout.cell_to_token[image])
            titles = [title.text for title in picture.iter(f"{SVG}title")]
            assert titles == [
                f"token {token}: {count} cell{'s' if count > 1 else ''}"
                for token, count in enumerate(cells)
            ]
            assert picture.get("viewBox") == "0 0 20 12"
            assert (picture.get("width"), picture.get("height")) == ("168", "101")
        assert root.findall("div")[-1].text == "and 1 more"


def test_the_sentence_says_what_they_are(stages):
    text = ET.fromstring(stages[1]._repr_html_()).find("div").text
    assert text == (
        "60 tokens in each of 5 images, on a grid of 12 x 20 cells, as a map 6 x 10; "
        "64 channels, float32 on cpu"
    )
    layout = ET.fromstring(stages[1].layout._repr_html_()).find("div").text
    assert layout.startswith("Layout of 60 tokens in each of 5 images")


def test_half_precision_gradients_and_tensors_without_values_are_no_trouble():
    layout = grid_layout(1, (2, 3), torch.device("cpu"))
    x = torch.zeros(1, 6, 4, dtype=torch.bfloat16, requires_grad=True)
    html = Tokens(x, layout)._repr_html_()
    assert "1 image," in html
    assert "bfloat16" in html
    assert html.count("<path") == 6
    meta = grid_layout(1, (2, 3), torch.device("meta"))
    assert "<svg" not in Tokens(x.to("meta"), meta)._repr_html_()


def test_too_many_tokens_are_not_drawn():
    html = sketch_html("many", np.arange(70 * 70)[None], (70, 70))
    assert "<svg" not in html
    assert "draw_tokens" in html


def test_neither_ipython_nor_pillow_is_needed():
    code = (
        "import sys; sys.modules.update({'PIL': None, 'IPython': None})\n"
        "import numpy, tcformer.sketch\n"
        "print(tcformer.sketch.sketch_html('a', numpy.zeros((1, 4), int), (2, 2)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<div")
