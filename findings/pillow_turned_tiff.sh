#!/bin/sh
# Pillow turns TIFF files as their orientation tag says when it loads them, and no other format.
#
# Versions: Pillow 12.3.0, torchvision 0.29.2, torch 2.15.0, numpy 2.4.6.
# Behaviour: Image.open(...).convert("RGB") of a TIFF with orientation 6 gives the turned image, and
#   its getexif() no longer has the tag; the same photograph as a JPEG or PNG comes lying on its side.
#   A loader that never asks for EXIF data, such as that of torchvision's ImageFolder, therefore
#   turns one file of a set and not another. ImageOps.exif_transpose makes both alike.
# Guess: without exif_transpose nothing is turned.
# Seen: a picture of 3 x 2 pixels has 2 x 3 as TIFF and 3 x 2 as JPEG and PNG, through ImageFolder.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" pillow==12.3.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
mkdir -p "$folder/set/a"
cd "$folder"
env/bin/python - <<'PY'
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

exif = Image.Exif()
exif[0x0112] = 6
names = ("x.jpg", "x.png", "x.tif")
for name in names:
    Image.new("RGB", (3, 2)).save(f"set/a/{name}", exif=exif)
loaded = [image.size for image, _ in ImageFolder("set")]
turned = [ImageOps.exif_transpose(Image.open(f"set/a/{name}")).size for name in names]
print("through ImageFolder:", dict(zip(names, loaded)))
print("after exif_transpose:", dict(zip(names, turned)))
raise SystemExit(not (loaded == [(3, 2), (3, 2), (2, 3)] and turned == [(2, 3)] * 3))
PY
