"""tcformer_nano on CIFAR-10 at 32 px. Not run to the end by us: no accuracy is claimed.

    tcformer train configs/cifar10/tcformer_nano.py --data-path DATA

DATA holds cifar-10-batches-py (the archive's folder), or cifar-10-python.tar.gz itself.
"""

cfg = dict(
    model="tcformer_nano",
    data_set="CIFAR10",
    input_size=32,
    batch_size=128,
    epochs=200,
    lr=2e-3,
    warmup_epochs=5,
    drop_path=0.1,
    clip_grad=1.0,
    num_workers=4,
    output_dir="work_dirs/cifar10_nano",
)
