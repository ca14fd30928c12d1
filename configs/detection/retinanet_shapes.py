"""RetinaNet over tcformer_nano on drawn shapes, on a CPU.

python examples/detection.py configs/detection/retinanet_shapes.py
"""

cfg = dict(
    detector="retinanet",
    backbone="tcformer_nano",
    out_channels=64,
    num_outs=3,
    num_heads=2,
    mlp_ratio=2.0,
    reduction="cluster",
    head_norm=True,
    anchor_scale=3.0,
    min_size=64,
    max_size=64,
    batch_size=4,
    num_workers=0,
    epochs=2,
    lr=1e-3,
    lr_drops=(),
    warmup_steps=20,
    device="cpu",
)
