"""timm's pvt_v2_b1 on CIFAR-10 at 64 px: the baseline of the size of tcformer_light.

    tcformer train configs/cifar10/pvt_v2_b1.py --data-path DATA

Meant for a GPU, and not run by us: no accuracy is claimed.

DATA holds cifar-10-batches-py (unpacked) or cifar10_train.npz and cifar10_test.npz. The recipe is
the same for all networks of this folder. A schedule for a CPU is cpu.py beside this file.
"""

cfg = dict(
    model="pvt_v2_b1",
    data_set="CIFAR10",
    input_size=64,
    crop_area=(0.3, 1.0),
    batch_size=128,
    epochs=300,
    lr=2e-3,
    warmup_epochs=10,
    drop_path=0.1,
    clip_grad=1.0,
    ema=True,
    ema_decay=0.9998,
    num_workers=8,
    output_dir="work_dirs/cifar10_pvt_v2_b1",
)
