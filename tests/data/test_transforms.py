import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms as T

from tcformer.data import TransformSpec, eval_transform, train_transform
from tcformer.data.decode import pil_to_tensor
from tcformer.data.seeding import SeededDataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RECIPE = "rand-m9-mstd0.5-inc1"


def seeded(transform, image, seed):
    class One:
        def __getitem__(self, _):
            return transform(image)

    return SeededDataset(One(), seed=seed)[(0, 0)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aa": None},
        {"aa": None, "color_jitter": 0},
        {"aa": "augmix-m3-w2"},
        {"aa": "original-mstd0.5", "train_interpolation": "random"},
        {"reprob": 1.0, "remode": "rand", "recount": 3, "hflip": 0.0},
        {"train_interpolation": "bilinear", "aa": None, "reprob": 0.0},
        {"input_size": 40, "crop_area": (0.5, 0.75)},
    ],
)
def test_training_is_timms_transform_bit_for_bit(options, picture):
    spec = TransformSpec(**{"input_size": 64, **options})
    reference = create_transform(
        input_size=spec.input_size,
        is_training=True,
        hflip=0.5 if spec.hflip is None else spec.hflip,
        color_jitter=spec.color_jitter or None,
        auto_augment=spec.aa,
        interpolation=spec.train_interpolation,
        scale=spec.crop_area,
        re_prob=spec.reprob,
        re_mode=spec.remode,
        re_count=spec.recount,
    )
    image, ours = picture(0, (90, 70)), train_transform(spec)
    for seed in range(12):
        assert torch.equal(seeded(ours, image, seed), seeded(reference, image, seed))


def test_small_inputs_are_cropped_with_padding(picture):
    reference = create_transform(
        input_size=32, is_training=True, auto_augment=RECIPE, interpolation="bicubic",
        re_prob=0.25, re_mode="pixel", color_jitter=0.4,
    )  # fmt: skip
    reference.transforms[0] = T.RandomCrop(32, padding=4)
    ours = train_transform(TransformSpec(input_size=32))
    for seed in range(12):
        image = picture(seed, (32, 32))
        assert torch.equal(seeded(ours, image, seed), seeded(reference, image, seed))


@pytest.mark.parametrize("size", [33, 96, 224])
def test_evaluation_is_the_published_transform(size, picture):
    reference = T.Compose(
        [
            T.Resize(int((256 / 224) * size), interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(size),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    ours = eval_transform(TransformSpec(input_size=size))
    for shape in ((300, 200), (20, 31), (size, size)):
        image = picture(1, shape)
        assert ours(image).shape == (3, size, size)
        assert torch.equal(ours(image), reference(image))


def test_small_inputs_are_evaluated_without_resizing(picture):
    ours = eval_transform(TransformSpec(input_size=32))
    image = picture(2, (32, 32))
    assert torch.equal(ours(image), T.Normalize(MEAN, STD)(T.ToTensor()(image)))
    for shape in ((50, 40), (9, 60), (24, 24)):  # a size that the recipe could not batch
        assert ours(picture(2, shape)).shape == (3, 32, 32)
        train = train_transform(TransformSpec(input_size=32))
        assert train(picture(2, shape)).shape == (3, 32, 32)


def smooth(size):
    noise = np.random.RandomState(0).randint(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "options",
    [
        {"aa": None, "color_jitter": 0},
        {"aa": None, "color_jitter": 0, "train_interpolation": "random"},
        {"aa": None, "color_jitter": 0, "train_interpolation": "bilinear", "in_chans": 1},
        {"aa": None, "color_jitter": 0, "input_size": 32},
        {},
    ],
)
def test_tensors_get_the_same_crops_and_draws_as_images(options):
    spec = TransformSpec(**{"input_size": 64, **options})
    image = smooth((90, 70))
    tensor = pil_to_tensor(image)
    train, test = train_transform(spec), eval_transform(spec)
    # Resampling rounds differently by a grey level; a policy may amplify that (contrast) or turn
    # on it (posterise, solarise), so with a policy only most pixels must agree.
    gray_levels = 2.5 / 255 / min(STD)
    for seed in range(8):
        one, two = (seeded(train, x, seed) for x in (image, tensor))
        apart = (one - two).abs()
        assert apart.median() <= gray_levels
        assert spec.aa or apart.max() <= gray_levels
    assert (test(image) - test(tensor)).abs().max() <= gray_levels


@pytest.mark.parametrize("aa", [None, RECIPE])
@pytest.mark.parametrize("size", [32, 48])
def test_one_channel(aa, size, picture):
    spec = TransformSpec(input_size=size, in_chans=1, aa=aa)
    for image in (picture(3, (64, 64)), pil_to_tensor(picture(3, (64, 64)))):
        assert train_transform(spec)(image).shape == (1, size, size)
    gray = eval_transform(TransformSpec(input_size=32, in_chans=1, mean=(0.0,), std=(1.0,)))
    white = Image.new("RGB", (32, 32), "white")
    assert torch.equal(gray(white), torch.ones(1, 32, 32))


def test_flips_obey_their_probability(picture):
    options = {"input_size": 32, "aa": None, "color_jitter": 0, "reprob": 0.0}
    image = picture(4, (32, 32))
    results = {}
    for hflip in (0.0, 1.0):
        transform = train_transform(TransformSpec(hflip=hflip, **options))
        results[hflip] = seeded(transform, image, 0)
    plain = train_transform(TransformSpec(**options).for_data_set("digits"))
    assert torch.equal(seeded(plain, image, 0), results[0.0])
    assert not torch.equal(results[0.0], results[1.0])


def test_a_thousand_training_images_pass():
    # Pillow 13 refuses the posterize(bits=0) that this policy asks for now and then (about 1 image
    # in 430): this is the test that guards the pin pillow<13.
    transform = train_transform(TransformSpec(input_size=33))
    image = smooth((36, 36))
    random.seed(0)
    np.random.seed(0)
    for _ in range(1000):
        transform(image)


def test_transforms_can_be_sent_to_workers(picture):
    for spec in (TransformSpec(input_size=40), TransformSpec(input_size=16, in_chans=1)):
        for make in (train_transform, eval_transform):
            transform = make(spec)
            copy = pickle.loads(pickle.dumps(transform))
            image = picture(5, (60, 40))
            assert torch.equal(seeded(copy, image, 1), seeded(transform, image, 1))


POLICIES = (
    "rand rand-m9-n3-p0.5-mstd0.5-mmax20-inc1 rand-tweights rand-t3a rand-t3aw "
    "augmix-m5-w4-d2-a0.5-b1-mstd1 v0 v0r-mstd0.5 original originalr 3a"
)


@pytest.mark.parametrize("aa", POLICIES.split())
def test_every_accepted_policy_works(aa, picture):
    transform = train_transform(TransformSpec(input_size=40, aa=aa))
    for seed in range(4):
        assert seeded(transform, picture(6, (50, 44)), seed).isfinite().all()
