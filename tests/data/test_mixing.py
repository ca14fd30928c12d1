import numpy as np
import pytest
import torch
from timm.data import Mixup

from tcformer.data import MixSpec, build_mixer
from tcformer.data.seeding import STREAM_MIX, seed_words
from tcformer.errors import UserError


def batch(count, size=16, classes=7):
    generator = torch.Generator().manual_seed(count)
    images = torch.rand(count, 3, size, size, generator=generator)
    return images, torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_a_seeded_mixer_is_timms(mode):
    spec = MixSpec(mixup_mode=mode)
    images, targets = batch(6)
    reference = Mixup(0.8, 1.0, None, 1.0, 0.5, mode, True, 0.1, 7)
    mixer = build_mixer(spec, num_classes=7, seed=3)
    for number in range(6):
        np.random.seed(seed_words(STREAM_MIX, 3, 1, number, 0))
        expected = reference(images.clone(), targets)
        mixed, soft = mixer(images.clone(), targets, epoch=1, batch=number)
        assert torch.equal(mixed, expected[0])
        assert torch.equal(soft, expected[1])


def test_draws_belong_to_the_batch_and_leave_the_generator():
    mixer = build_mixer(MixSpec(), num_classes=7)
    images, targets = batch(4)
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    keys = [(e, b, r) for e in (0, 1) for b in (0, 1) for r in (0, 1)]
    softs = [mixer(images.clone(), targets, epoch=e, batch=b, rank=r)[1] for e, b, r in keys]
    assert np.random.get_state()[1].tolist() == before
    assert len({tuple(s.flatten().tolist()) for s in softs}) == len(keys)
    again = mixer(images.clone(), targets, epoch=1, batch=0, rank=1)[1]
    assert torch.equal(again, softs[keys.index((1, 0, 1))])


@pytest.mark.parametrize(("count", "mode"), [(1, "batch"), (3, "pair"), (5, "elem"), (5, "batch")])
def test_an_odd_batch_leaves_its_last_image_unmixed(count, mode):
    mixer = build_mixer(MixSpec(mixup_mode=mode), num_classes=7)
    images, targets = batch(count)
    expected = images.clone()
    if count > 1:
        even = mixer(images[:-1].clone(), targets[:-1], epoch=0, batch=2)
        expected[:-1] = even[0]
    mixed, soft = mixer(images, targets, epoch=0, batch=2)
    assert mixed is images
    assert torch.equal(mixed, expected)
    last = torch.full((7,), 0.1 / 7)
    last[targets[-1]] += 0.9
    assert torch.allclose(soft[-1], last)
    assert soft.shape == (count, 7)
    assert torch.allclose(soft.sum(1), torch.ones(count))


def test_switches():
    assert build_mixer(MixSpec(mixup=0, cutmix=0), num_classes=7) is None
    images, targets = batch(4)
    only_cut = build_mixer(MixSpec(mixup=0), num_classes=7)
    mixed, _ = only_cut(images.clone(), targets, epoch=0, batch=0)
    pixels = (mixed == images).all(1) | (mixed == images.flip(0)).all(1)
    assert pixels.all()
    never = build_mixer(MixSpec(mixup_prob=0.0), num_classes=7)
    assert torch.equal(never(images.clone(), targets, epoch=0, batch=0)[0], images)
    boxed = build_mixer(MixSpec(mixup=0, cutmix=0, cutmix_minmax=(0.4, 0.6)), num_classes=7)
    changed = (boxed(images.clone(), targets, epoch=0, batch=0)[0] != images).any(1)[0]
    assert 6 * 6 <= changed.sum() <= 9 * 9


def test_a_box_without_room_is_refused():
    mixer = build_mixer(MixSpec(cutmix_minmax=(0.5, 0.51)), num_classes=7)
    with pytest.raises(UserError, match="images of 16 px"):
        mixer(*batch(4), epoch=0, batch=0)
