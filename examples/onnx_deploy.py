"""Classify a picture (binary PPM) with an exported model: onnxruntime and NumPy, nothing else."""

import json
import sys

import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = model.get_modelmeta().custom_metadata_map
size, mean, std, classes = (json.loads(about[key]) for key in ("size", "mean", "std", "classes"))
data = np.fromfile(sys.argv[2], np.uint8)  # P6 WIDTH HEIGHT 255, then the pixels
shape = [*map(int, data[:40].tobytes().split()[2:0:-1]), 3]
image = data[-np.prod(shape) :].reshape(shape)
scale = min(shape[0] / size[0], shape[1] / size[1])
for axis in (0, 1):  # what the model sees is the middle, resized by a triangle filter
    place = (np.arange(size[axis]) + 0.5 - size[axis] / 2) * scale + shape[axis] / 2
    distance = abs(np.arange(shape[axis]) + 0.5 - place[:, None])
    weight = np.maximum(1 - distance / max(scale, 1), 0)
    weight /= weight.sum(1, keepdims=True)
    image = np.moveaxis(np.tensordot(weight, image, (1, axis)), 0, axis)
images = image.round().astype(np.uint8)[None]
if about["input"] == "normalised":  # else the model does this itself
    images = ((images / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
(logits,) = model.run(["logits"], {"images": images})[0]
chance = np.exp(logits - logits.max())
for index in np.argsort(-logits)[:5]:
    print(f"{chance[index] / chance.sum():6.1%}  {classes[index]}")
