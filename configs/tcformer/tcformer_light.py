"""TCFormer-Light on ImageNet-1k, 14.2 M parameters. The paper: 79.4 % top-1, with 8 GPUs.

sh dist_train.sh configs/tcformer/tcformer_light.py 8 --data-path DATA
"""

cfg = dict(
    model="tcformer_light",
    drop_path=0.1,
    clip_grad=None,
    output_dir="work_dirs/tcformer_light",
)
