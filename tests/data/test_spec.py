import subprocess
import sys

import pytest

from tcformer.data import build_dataset
from tcformer.data.spec import DataSpec, MixSpec, TransformSpec
from tcformer.errors import UserError


def test_specs_and_their_package_import_without_torch():
    code = (
        "import sys, tcformer.data, tcformer.data.spec as s; s.DataSpec(); s.TransformSpec(); "
        "s.MixSpec(); print([m for m in ('torch', 'numpy', 'PIL', 'timm') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_resolves():
    import tcformer.data

    assert all(getattr(tcformer.data, name) is not None for name in tcformer.data.__all__)
    assert set(tcformer.data.__all__) <= set(dir(tcformer.data))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tcformer.data.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: build_dataset(DataSpec(data_set="CIFAR11"), "val"), "did you mean CIFAR10?"),
        (lambda: build_dataset(DataSpec(data_set="imnet"), "val"), "did you mean IMNET?"),
        (lambda: DataSpec(inat_category="species"), "kingdom, phylum"),
        (lambda: DataSpec(decoder="cv2"), "one of pil, torchvision is meant"),
        (lambda: DataSpec(fake_images=0), "--fake-images"),
        (lambda: TransformSpec(input_size=0), "--input-size"),
        (lambda: TransformSpec(color_jitter=-1), "--color-jitter"),
        (lambda: TransformSpec(aa="rand-m9-std0.5"), "'std0.5' is not understood"),
        (lambda: TransformSpec(aa="rand-tnothing"), "'tnothing'"),
        (lambda: TransformSpec(aa="rand-m9.5"), "'m9.5'"),
        (lambda: TransformSpec(aa="trivial"), "rand-m9-mstd0.5-inc1"),
        (lambda: TransformSpec(train_interpolation="cubic"), "did you mean bicubic?"),
        (lambda: TransformSpec(reprob=1.5), "0 to 1 is meant"),
        (lambda: TransformSpec(remode="noise"), "--remode"),
        (lambda: TransformSpec(recount=0), "--recount"),
        (lambda: TransformSpec(hflip=2.0), "--hflip"),
        (lambda: TransformSpec(crop_area=(0.0, 1.0)), "--crop-area is 0 1: give two shares"),
        (lambda: TransformSpec(crop_area=(0.5, 0.4)), "--crop-area is 0.5 0.4: give two shares"),
        (lambda: TransformSpec(input_size=32, crop_area=(0.5, 1.0)), "--crop-area has no effect"),
        (lambda: TransformSpec(in_chans=4), "1 or 3"),
        (lambda: TransformSpec(mean=(0.5,)), "3 channels"),
        (lambda: TransformSpec(std=(1.0, 0.0, 1.0)), "positive"),
        (lambda: MixSpec(mixup=-0.1), "--mixup"),
        (lambda: MixSpec(mixup_prob=float("nan")), "--mixup-prob"),
        (lambda: MixSpec(mixup_mode="half"), "--mixup-mode"),
        (lambda: MixSpec(cutmix_minmax=(0.8, 0.2)), "the smaller first"),
        (lambda: MixSpec(cutmix_minmax=(0.2,)), "tuple[float, float]"),
        (lambda: MixSpec(smoothing="much"), "--smoothing"),
    ],
)
def test_refusals_are_one_sentence_that_names_the_option(make, says):
    with pytest.raises(UserError) as error:
        make()
    text = str(error.value)
    assert says in text
    assert "\n" not in text
    assert text.endswith(".")


def test_no_policy_has_three_spellings():
    assert {TransformSpec(aa=a).aa for a in (None, "", "none", "None")} == {None}


def test_digits_are_not_mirrored_unless_asked():
    assert TransformSpec().for_data_set("digits").hflip == 0.0
    assert TransformSpec().for_data_set("IMNET").hflip == 0.5
    assert TransformSpec(hflip=0.3).for_data_set("digits").hflip == 0.3


def test_a_color_jitter_without_effect_is_noted():
    assert TransformSpec().notes() == []
    assert TransformSpec(color_jitter=0.2, aa=None).notes() == []
    assert "no effect" in TransformSpec(color_jitter=0.2).notes()[0]
