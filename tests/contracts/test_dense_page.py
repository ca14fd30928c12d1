"""docs/dense.md names what there is. Its blocks are run by test_blocks.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dense.md").read_text()


def test_the_table_of_recipes_names_every_one():
    recipes = {path.name for path in (ROOT / "configs" / "detection").glob("*_coco.py")}
    assert set(re.findall(r"`(\w+_coco\.py)`", PAGE)) == recipes
