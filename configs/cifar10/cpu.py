"""CIFAR-10 at 64 px on a CPU: four passes over the images, for any network of this folder.

    tcformer train configs/cifar10/cpu.py --data-path DATA --model pvt_v2_b0

So short a schedule needs no mixing and no erasing: the images bear no more than a crop and a flip.
What it reaches stands in docs/results.md; `python benchmarks/learning.py cifar10` runs it for three
networks in about half an hour on two cores that do nothing else.
"""

cfg = dict(
    model="tcformer_nano",
    data_set="CIFAR10",
    input_size=64,
    crop_area=(0.6, 1.0),
    batch_size=64,
    epochs=4,
    lr=8e-3,
    warmup_epochs=0,
    warmup_steps=200,
    drop_path=0.0,
    clip_grad=1.0,
    aa=None,
    color_jitter=None,
    reprob=0.0,
    mixup=0.0,
    cutmix=0.0,
    smoothing=0.1,
    num_workers=0,
    save_every=0,
    device="cpu",
    output_dir="work_dirs/cifar10_cpu",
)
