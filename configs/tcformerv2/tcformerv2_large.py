"""TCFormerV2-Large, with Local CTM, on ImageNet-1k, 62.8 M parameters.

    sh dist_train.sh configs/tcformerv2/tcformerv2_large.py 8 --data-path DATA

The schedule behind the results of the V2 paper was not published: this is the one of V1. We have
not run it, and claim no figure.
"""

cfg = dict(
    model="tcformerv2_large",
    drop_path=0.3,
    clip_grad=1.0,
    output_dir="work_dirs/tcformerv2_large",
)
