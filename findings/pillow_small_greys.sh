#!/bin/sh
# Pillow stretches PNG greys of 2 and 4 bits, and then looks for their transparent value in vain.
#
# Versions: Pillow 12.3.0, numpy 2.4.6.
# Behaviour: a grey PNG of 4 bits opens in mode L with every sample times 17 (2 bits: times 85), so a
#   mask of class numbers 0 to 15 reads as 0 to 255. The value that its tRNS chunk calls transparent
#   stays as it is in the file: convert("RGBA") compares it with stretched pixels and leaves the image
#   opaque, unless the value is 0. Of RGB with 16 bits the pixels keep the high byte, and the
#   transparent value is compared by its low one.
# Guess: modes hide the depth of the file, and convert("RGBA") honours tRNS whatever the depth.
# Seen: samples 0 1 2 3 read as 0 17 34 51; with 3 transparent all alphas are 255; an RGB pixel of
#   0x1234 in each channel, transparent, has alpha 255. With 8 bits the alpha is 0, as it should be.
# Optimizers of PNG files write such files from icons and from masks of few classes.
# Exits 1 when this changes.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
uv venv -q --python 3.11 "$folder/env"
uv pip install -q --python "$folder/env" pillow==12.3.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(width, bits, color, row, key):
    def chunk(kind, body):
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, 1, bits, color, 0, 0, 0)
    parts = ((b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in parts)))


four = png(4, 4, 0, bytes([0x01, 0x23]), struct.pack(">H", 3))
eight = png(4, 8, 0, bytes([0, 1, 2, 3]), struct.pack(">H", 3))
wide = png(1, 16, 2, struct.pack(">3H", *[0x1234] * 3), struct.pack(">3H", *[0x1234] * 3))
read = np.asarray(four).tolist()
alphas = [np.asarray(image.convert("RGBA"))[0, :, 3].tolist() for image in (four, eight, wide)]
print("4 bits read as:", read)
print("alpha of 4 bits, 8 bits, 16-bit RGB:", alphas)
good = read == [[0, 17, 34, 51]] and alphas == [[255] * 4, [255, 255, 255, 0], [255]]
raise SystemExit(not good)
PY
