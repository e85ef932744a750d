"""What every augmentation does, and what each of those of time and value preserves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ecgtext.data import augmentations as aug

BATCH, LEADS, SAMPLES, RATE = 6, 12, 500, 250.0

EVERY = {
    "resized_crop": aug.RandomResizedCrop(),
    "time_out": aug.TimeOut(0.1),
    "lead_time_mask": aug.LeadTimeMask(),
    "permutation": aug.SegmentPermutation(),
    "equal_permutation": aug.SegmentPermutation(cuts="equal"),
    "jitter": aug.Jitter(),
    "scaling": aug.RandomScaling(),
    "scaling_per_sample": aug.RandomScaling(per="sample"),
    "blur": aug.GaussianBlur(),
    "shift": aug.BaselineShift(),
    "wander": aug.BaselineWander(RATE),
    "mains": aug.PowerlineNoise(RATE),
    "muscle": aug.MuscleNoise(unit="record_std"),
    "lead_mask": aug.RandomLeadMask(),
    "vectorcardiogram": aug.VectorcardiogramPerturbation(),
}
ONE_BY_ONE = pytest.mark.parametrize("augment", EVERY.values(), ids=EVERY.keys())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(99))


@pytest.fixture
def signals() -> torch.Tensor:
    return noise(BATCH, LEADS, SAMPLES)


@pytest.fixture
def present() -> torch.Tensor:
    mask = torch.ones(BATCH, LEADS, dtype=torch.bool)
    mask[1, [3, 7]] = False
    return mask


# ---- all of them


@ONE_BY_ONE
def test_the_same_generator_gives_the_same_result_and_another_does_not(augment, signals):
    first, second, other = (augment(signals, None, generator(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(first, signals)


@ONE_BY_ONE
def test_the_input_is_left_as_it_was(augment, signals):
    before = signals.clone()
    augment(signals, None, generator())
    assert torch.equal(signals, before)


@ONE_BY_ONE
def test_every_record_has_draws_of_its_own(augment):
    same = noise(1, LEADS, SAMPLES).expand(BATCH, -1, -1)
    changed, _ = augment(same, None, generator())
    differing = [(changed[i] - changed[j]).abs().max() > 0 for i in range(BATCH) for j in range(i)]
    assert sum(differing) > len(differing) / 2, "small draws, such as lengths of kernels, may coincide by chance"


@ONE_BY_ONE
def test_a_record_is_changed_as_its_own_draws_say_whatever_the_others_are(augment, signals, present):
    draws = augment.draw(signals, present, generator())
    whole = augment.transform(signals, present, **draws)
    alone = augment.transform(signals[2:3], present[2:3], **{name: value[2:3] for name, value in draws.items()})
    torch.testing.assert_close(alone, whole[2:3])


@ONE_BY_ONE
def test_absent_leads_stay_zero(augment, signals, present):
    signals[~present] = 0
    changed, kept = augment(signals, present, generator())
    assert (changed[~present] == 0).all()
    assert not kept[~present].any()


@ONE_BY_ONE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_type_are_kept_and_all_is_finite(augment, signals, dtype):
    changed, mask = augment(signals.to(dtype), None, generator())
    assert (changed.shape, changed.dtype) == (signals.shape, dtype)
    assert (mask.shape, mask.dtype) == ((BATCH, LEADS), torch.bool)
    assert changed.isfinite().all()


@ONE_BY_ONE
def test_half_precision_is_close_to_full(augment, signals, present):
    rounded = signals.bfloat16()
    draws = augment.draw(signals, present, generator())
    narrow, wide = (augment.transform(values, present, **draws) for values in (rounded, rounded.float()))
    torch.testing.assert_close(narrow.float(), wide.float(), atol=0.05, rtol=0.02)


@ONE_BY_ONE
def test_one_record_is_a_batch_too(augment, signals):
    assert augment(signals[:1], None, generator())[0].shape == (1, LEADS, SAMPLES)


@ONE_BY_ONE
def test_some_records_are_changed_with_a_probability(augment, signals):
    many = signals[:1].expand(300, -1, -1)
    before = augment.probability
    try:
        augment.probability = 0.3
        changed, mask = augment(many, None, generator())
        untouched = (changed == many).all(dim=(1, 2))
        assert 0.6 < untouched.float().mean() < 0.8
        assert mask[untouched].all()
        augment.probability = 0.0
        assert torch.equal(augment(many, None, generator())[0], many)
    finally:
        augment.probability = before


class Waits(TorchDispatchMode):
    """Notes what would wait for a GPU: values read into Python, and masks used as indices."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        masks = [value for value in args if isinstance(value, list | tuple) for value in value]
        by_mask = "index" in name and any(getattr(mask, "dtype", None) == torch.bool for mask in masks)
        if by_mask or name in {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique"}:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@ONE_BY_ONE
def test_nothing_waits_for_the_device(augment, signals, present):
    with Waits() as mode:
        augment(signals, present, generator())
    assert not mode.found


@ONE_BY_ONE
def test_the_transformation_compiles_as_one_graph(augment, signals, present):
    draws = augment.draw(signals, present, generator())
    torch._dynamo.reset()
    compiled = torch.compile(augment.transform, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(signals, present, **draws), augment.transform(signals, present, **draws))


def test_compositions_repeat_and_hand_the_mask_on(signals, present):
    both = aug.Compose(aug.RandomLeadMask(), aug.Jitter(), aug.BaselineShift())
    values, mask = both(signals, present, generator())
    assert (mask.sum() < present.sum()).item()
    assert (values[~mask] == 0).all(), "noise does not bring a hidden lead back"
    again, _ = both(signals, present, generator())
    assert torch.equal(values, again)
    first = generator()
    step, step_mask = aug.RandomLeadMask()(signals, present, first)
    step, _ = aug.BaselineShift()(*aug.Jitter()(step, step_mask, first), first)
    assert torch.equal(step, values)


def test_two_views_differ_and_may_be_made_differently(signals):
    (first, _), (second, _) = aug.TwoViews(aug.Jitter())(signals, None, generator())
    assert not torch.equal(first, second)
    (weak, _), (strong, _) = aug.TwoViews(aug.TimeOut(0, 0), aug.TimeOut(1, 1))(signals, None, generator())
    assert torch.equal(weak, signals)
    assert (strong == 0).all()


def test_wrong_shapes_and_settings_are_explained(signals):
    with pytest.raises(ValueError, match="lead_mask has shape"):
        aug.Jitter()(signals, torch.ones(BATCH, 3))
    with pytest.raises(ValueError, match="expected floating-point"):
        aug.Jitter()(signals[0])
    with pytest.raises(ValueError, match="expected floating-point"):
        aug.Jitter()(signals.to(torch.int16))
    for wrong in (
        lambda: aug.TimeOut(0.5, 0.2),
        lambda: aug.RandomResizedCrop(max_scale=1.5),
        lambda: aug.Jitter(unit="volt"),
        lambda: aug.Jitter(probability=2),
        lambda: aug.GaussianBlur(4, 11),
        lambda: aug.SegmentPermutation(0),
        lambda: aug.SegmentPermutation(cuts="some"),
        lambda: aug.RandomScaling(per="record"),
        lambda: aug.BaselineWander(100.0, max_hz=60.0),
        lambda: aug.PowerlineNoise(100.0),
    ):
        with pytest.raises(ValueError, match=r"must|no unit|odd lengths|hold frequencies"):
            wrong()


# ---- time


def test_a_resized_crop_of_a_straight_line_is_a_part_of_it_and_straight():
    line = torch.arange(SAMPLES, dtype=torch.float32).expand(200, 2, -1)
    cropped, _ = aug.RandomResizedCrop(0.5, 1.0)(line, None, generator())
    slopes = cropped.diff(dim=-1)
    torch.testing.assert_close(slopes, slopes.mean(dim=-1, keepdim=True).expand_as(slopes), atol=2e-3, rtol=0)
    mean_slopes = (cropped[:, 0, -1] - cropped[:, 0, 0]) / (SAMPLES - 1)
    assert 0.5 <= mean_slopes.min() < 0.55
    assert 0.95 < mean_slopes.max() <= 1.0
    assert cropped.min() >= 0
    assert cropped.max() <= SAMPLES - 1
    assert torch.equal(cropped[:, 0], cropped[:, 1])


def test_a_crop_of_everything_changes_nothing(signals):
    assert torch.equal(aug.RandomResizedCrop(1.0, 1.0)(signals, None, generator())[0], signals)


def test_a_resized_crop_equals_linear_interpolation(signals):
    augment = aug.RandomResizedCrop()
    draws = augment.draw(signals, torch.ones(BATCH, LEADS, dtype=torch.bool), generator())
    changed = augment.transform(signals, torch.ones(BATCH, LEADS, dtype=torch.bool), **draws)
    scale, start = (draws[name].double().numpy()[3, 0] for name in ("scale", "start"))
    moments = start * (1 - scale) * (SAMPLES - 1) + scale * np.arange(SAMPLES)
    expected = np.interp(moments, np.arange(SAMPLES), signals[3, 5].numpy())
    np.testing.assert_allclose(changed[3, 5].numpy(), expected, atol=2e-4)


def test_a_crop_is_a_stretch_of_the_record_and_starts_anywhere():
    counting = torch.arange(20, dtype=torch.float32).expand(400, 2, -1)
    cropped, _ = aug.RandomCrop(15)(counting, None, generator())
    assert cropped.shape == (400, 2, 15)
    starts = cropped[:, 0, 0]
    assert torch.equal(cropped, starts[:, None, None] + torch.arange(15.0).expand(400, 2, -1))
    assert set(starts.tolist()) == set(range(6))
    assert torch.equal(aug.RandomCrop(20)(counting, None, generator())[0], counting)
    with pytest.raises(ValueError, match="21 samples does not fit into 20"):
        aug.RandomCrop(21)(counting, None, generator())


def test_time_out_zeroes_one_stretch_of_the_share_and_nothing_else(signals):
    many = signals.repeat(50, 1, 1)
    changed, _ = aug.TimeOut(0.1, 0.5)(many, None, generator())
    hidden = changed[:, 0] == 0
    assert torch.equal(torch.where(hidden[:, None], 0, many), changed)
    lengths = hidden.sum(dim=-1)
    assert 0.1 * SAMPLES <= lengths.min() < 0.13 * SAMPLES
    assert 0.47 * SAMPLES < lengths.max() <= 0.5 * SAMPLES
    edges = hidden.int().diff(dim=-1).abs().sum(dim=-1) + hidden[:, 0].int() + hidden[:, -1].int()
    assert (edges == 2).all(), "one stretch has two ends"
    fixed = aug.TimeOut(0.25, 0.25)(many, None, generator())[0]
    assert ((fixed[:, 0] == 0).sum(dim=-1) == SAMPLES // 4).all()


def test_a_lead_time_mask_hides_half_of_each_lead_around_the_end(signals):
    changed, mask = aug.LeadTimeMask(0.5)(signals, None, generator())
    hidden = changed == 0
    assert (hidden.sum(dim=-1) == SAMPLES // 2).all()
    assert torch.equal(changed[~hidden], signals[~hidden])
    around = (hidden != hidden.roll(1, dims=-1)).sum(dim=-1)
    assert (around == 2).all(), "one stretch on a circle"
    assert len({tuple(row.tolist()) for row in hidden[0]}) > 1, "each lead has its own"
    assert (hidden[..., 0] & hidden[..., -1]).any(), "some go on at the beginning"
    assert mask.all()


@pytest.mark.parametrize("cuts", ["random", "equal"])
def test_a_permutation_keeps_every_sample_once_in_the_same_order_in_all_leads(cuts):
    counting = torch.arange(SAMPLES, dtype=torch.float32).expand(300, 2, -1)
    changed, _ = aug.SegmentPermutation(7, cuts)(counting, None, generator())
    assert torch.equal(changed.sort(dim=-1).values, counting)
    assert torch.equal(changed[:, 0], changed[:, 1])
    jumps = (changed[:, 0].diff(dim=-1) != 1).sum(dim=-1)
    assert jumps.max() <= 6, "at most seven segments, each whole"
    assert len(set(jumps.tolist())) == 7, "and every number of them occurs"
    if cuts == "equal":
        halved = [row for row in changed[:, 0] if row[0] == SAMPLES // 2 and (row.diff() != 1).sum() == 1]
        assert halved, "two equal segments, swapped"


def test_one_segment_is_no_permutation(signals):
    assert torch.equal(aug.SegmentPermutation(1)(signals, None, generator())[0], signals)


def test_orders_of_segments_are_equally_likely():
    augment = aug.SegmentPermutation(3, "equal")
    counting = torch.arange(6, dtype=torch.float32).expand(6000, 1, -1)
    mask = torch.ones(6000, 1, dtype=torch.bool)
    draws = augment.draw(counting, mask, generator()) | {"count": torch.full((6000, 1), 0.9)}  # three segments
    orders, counts = augment.transform(counting, mask, **draws)[:, 0, ::2].unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 850


def test_halves_are_the_record_and_cost_nothing(signals):
    first, second = aug.split_halves(signals)
    assert torch.equal(torch.cat([first, second], dim=-1), signals)
    assert first.shape[-1] == SAMPLES // 2
    assert first.data_ptr() == signals.data_ptr()
    with pytest.raises(ValueError, match="499 samples has no two equal halves"):
        aug.split_halves(signals[..., 1:])


# ---- values


def test_jitter_has_the_share_of_each_records_own_deviation(present):
    signals = noise(BATCH, LEADS, 5000) * torch.arange(1, BATCH + 1)[:, None, None] + 7
    signals[~present] = 0
    changed, _ = aug.Jitter(0.05)(signals, present, generator())
    for record in range(BATCH):
        rows = present[record]
        added = (changed - signals)[record, rows]
        expected = 0.05 * signals[record, rows].std(correction=0)
        assert added.std() == pytest.approx(expected.item(), rel=0.02)
        assert abs(added.mean()) < 0.02 * expected
    absolute, _ = aug.Jitter(0.8, unit="input")(signals, None, generator())
    assert (absolute - signals).std() == pytest.approx(0.8, rel=0.01)


def test_scaling_multiplies_each_lead_by_one_normal_factor():
    signals = noise(500, LEADS, 8)
    factors = aug.RandomScaling(1.0, 0.1)(signals, None, generator())[0] / signals
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors))
    assert factors[..., 0].mean() == pytest.approx(1.0, abs=0.005)
    assert factors[..., 0].std() == pytest.approx(0.1, rel=0.03)


def test_blur_keeps_constants_and_straight_lines_away_from_the_ends(signals):
    constant = torch.full((BATCH, LEADS, SAMPLES), 3.25)
    torch.testing.assert_close(aug.GaussianBlur()(constant, None, generator())[0], constant)
    line = torch.arange(SAMPLES, dtype=torch.float32).expand(BATCH, LEADS, -1)
    blurred, _ = aug.GaussianBlur()(line, None, generator())
    torch.testing.assert_close(blurred[..., 5:-5], line[..., 5:-5])
    assert aug.GaussianBlur()(signals, None, generator())[0].std() < signals.std()


def test_blur_equals_a_convolution_with_each_records_own_kernel(signals):
    augment = aug.GaussianBlur(3, 11)
    mask = torch.ones(5, LEADS, dtype=torch.bool)
    kernel = torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9]])
    blurred = augment.transform(signals[:5], mask, kernel=kernel)
    for record, size in enumerate((3, 5, 7, 9, 11)):
        std = 0.3 * ((size - 1) / 2 - 1) + 0.8
        weights = np.exp(-0.5 * (np.arange(-(size // 2), size // 2 + 1) / std) ** 2)
        expected = convolve1d(signals[record].double().numpy(), weights / weights.sum(), axis=-1, mode="mirror")
        np.testing.assert_allclose(blurred[record].numpy(), expected, atol=1e-6)


def test_lead_masking_hides_half_of_the_leads_and_never_all():
    signals = torch.ones(4000, LEADS, 2)
    changed, mask = aug.RandomLeadMask(0.5)(signals, None, generator())
    assert torch.equal(changed, mask[..., None].float().expand(-1, -1, 2))
    assert mask.float().mean() == pytest.approx(0.5, abs=0.01)
    assert mask.any(dim=1).all()
    _, kept = aug.RandomLeadMask(1.0)(signals, None, generator())
    assert (kept.sum(dim=1) == 1).all()
    assert (kept.float().mean(dim=0) > 0.06).all(), "the one that stays is any of them"
    few = torch.zeros(4000, LEADS, dtype=torch.bool)
    few[:, [2, 9]] = True
    _, kept = aug.RandomLeadMask(0.9)(signals, few, generator())
    assert kept.any(dim=1).all()
    assert not kept[:, ~few[0]].any()
    assert torch.equal(aug.RandomLeadMask(0.0)(signals, few, generator())[1], few)
