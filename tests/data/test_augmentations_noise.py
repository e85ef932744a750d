"""Simulated noises, 3KG's vectorcardiogram, and the presets of published methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hf_ecgtext.data import augmentations as aug
from hf_ecgtext.data.augmentations.vectorcardiogram import INVERSE_DOWER, VCG_LEADS, rotation_matrices
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS, limb_leads_from_i_and_ii

RATE = 500.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spectrum(values: torch.Tensor, rate: float = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and energies of Hann-windowed signals."""
    samples = values.double().numpy()
    energies = np.abs(np.fft.rfft(samples * np.hanning(samples.shape[-1]))) ** 2
    return np.fft.rfftfreq(samples.shape[-1], 1 / rate), energies


def real_like(batch: int, num_samples: int = 1000) -> torch.Tensor:
    """Random signals whose limb leads obey the identities."""
    independent = torch.randn(batch, 8, num_samples, generator=generator(5)).numpy()
    limb = limb_leads_from_i_and_ii(independent[:, 0], independent[:, 1])
    return torch.from_numpy(np.concatenate([limb, independent[:, 2:]], axis=1).astype(np.float32))


# ---- noises


def test_baseline_shift_lifts_one_stretch_by_one_level_per_lead():
    silence = torch.zeros(200, 12, 1000)
    levels, _ = aug.BaselineShift(0.25, share=0.2)(silence, None, generator())
    lifted = levels != 0
    assert (lifted.sum(dim=-1) == 200).all()
    assert (lifted == lifted[:, :1]).all(), "the same stretch in all leads"
    heights = levels.sum(dim=-1) / 200
    torch.testing.assert_close(levels, lifted * heights[..., None])
    assert 0.24 < heights.max() <= 0.25
    assert -0.25 <= heights.min() < -0.24
    whole, _ = aug.BaselineShift(0.25, share=1.0)(silence, None, generator())
    assert (whole == whole[..., :1]).all()


def test_wander_is_slower_than_half_a_hertz_and_bounded():
    silence = torch.zeros(50, 2, 10_000)
    waves, _ = aug.BaselineWander(100.0, 0.5)(silence, None, generator())  # 100 s, to tell frequencies apart
    hz, energy = spectrum(waves, 100.0)
    assert energy[..., (hz > 0.03) & (hz < 0.52)].sum() > 0.9999 * energy.sum()
    assert waves.abs().max() <= 0.5
    assert waves.abs().amax(dim=-1).max() > 0.4
    ratio = waves[:, 0] / waves[:, 1]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_hum_has_its_energy_at_the_mains_frequency(mains):
    silence = torch.zeros(20, 12, 5000)
    hum, _ = aug.PowerlineNoise(RATE, 0.5, mains_hz=(mains,))(silence, None, generator())
    hz, energy = spectrum(hum)
    assert energy[..., np.abs(hz - mains) < 0.25].sum() > 0.9999 * energy.sum()
    amplitudes = hum.abs().amax(dim=-1)
    assert 0.47 < amplitudes.max() <= 0.5
    assert amplitudes.min() < 0.05


def test_half_of_the_records_have_50_hz_and_half_60():
    hum, _ = aug.PowerlineNoise(RATE)(torch.zeros(1000, 1, 500), None, generator())
    hz, energy = spectrum(hum)
    assert set(hz[energy[:, 0].argmax(axis=-1)]) == {50.0, 60.0}
    assert (hz[energy[:, 0].argmax(axis=-1)] == 50.0).mean() == pytest.approx(0.5, abs=0.05)


def test_muscle_noise_is_white_with_a_deviation_per_lead():
    white, _ = aug.MuscleNoise(0.5)(torch.zeros(100, 12, 2000), None, generator())
    deviations = white.std(dim=-1).flatten()
    assert deviations.mean() == pytest.approx(0.25, abs=0.02)
    assert deviations.max() < 0.54
    hz, energy = spectrum(white)
    halves = energy[..., hz < 125].mean(), energy[..., hz >= 125].mean()
    assert halves[0] == pytest.approx(halves[1], rel=0.03)


@pytest.mark.parametrize("make", [aug.BaselineShift, aug.MuscleNoise], ids=["shift", "muscle"])
def test_amplitudes_may_be_relative_to_each_records_deviation(make):
    signals = real_like(4) * torch.tensor([1.0, 2.0, 5.0, 10.0])[:, None, None]
    absolute = make(0.3)(signals, None, generator())[0] - signals
    relative = make(0.3, unit="record_std")(signals, None, generator())[0] - signals
    deviations = signals.std(dim=(1, 2), keepdim=True, correction=0)
    torch.testing.assert_close(relative, absolute * deviations, rtol=1e-3, atol=1e-5)


# ---- vectorcardiogram


def unchanged(batch: int) -> dict[str, torch.Tensor]:
    return {"angles": torch.zeros(batch, 3), "scales": torch.ones(batch, 3)}


def all_leads(batch: int) -> torch.Tensor:
    return torch.ones(batch, 12, dtype=torch.bool)


def test_without_rotation_the_eight_leads_are_their_projection_onto_the_vectorcardiogram():
    signals = real_like(3)
    augment = aug.VectorcardiogramPerturbation()
    changed = augment.transform(signals, all_leads(3), **unchanged(3))
    rows = [STANDARD_LEADS.index(name) for name in VCG_LEADS]
    dower = np.array(INVERSE_DOWER)
    expected = np.linalg.pinv(dower) @ dower @ signals[:, rows].double().numpy()
    np.testing.assert_allclose(changed[:, rows].numpy(), expected, atol=1e-5)
    twice = augment.transform(changed, all_leads(3), **unchanged(3))
    torch.testing.assert_close(twice, changed, atol=1e-5, rtol=1e-4)


def test_limb_leads_obey_einthoven_and_goldberger_after_any_rotation():
    changed, _ = aug.VectorcardiogramPerturbation()(torch.randn(20, 12, 300, generator=generator()), None, generator())
    i, ii, iii, avr, avl, avf = changed[:, :6].double().unbind(dim=1)
    for left, right in ((iii, ii - i), (avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def test_the_vector_is_turned_and_then_stretched():
    signals, batch = real_like(5), 5
    augment = aug.VectorcardiogramPerturbation()
    draws = augment.draw(signals, all_leads(batch), generator())
    changed = augment.transform(signals, all_leads(batch), **draws)
    rows = [STANDARD_LEADS.index(name) for name in VCG_LEADS]
    dower = np.array(INVERSE_DOWER)
    for record in range(batch):
        turn = Rotation.from_euler("zyx", draws["angles"][record].double().numpy()).as_matrix()
        stretch = np.diag(draws["scales"][record].double().numpy())
        expected = np.linalg.pinv(dower) @ stretch @ turn @ dower @ signals[record, rows].double().numpy()
        np.testing.assert_allclose(changed[record, rows].numpy(), expected, atol=2e-5)


def test_rotations_are_scipys():
    angles = torch.rand(100, 3, generator=generator(), dtype=torch.float64) * 6 - 3
    expected = Rotation.from_euler("zyx", angles.numpy()).as_matrix()
    np.testing.assert_allclose(rotation_matrices(angles).numpy(), expected, atol=1e-12)


def test_angles_and_scales_keep_their_limits():
    signals = torch.zeros(5000, 12, 1)
    draws = aug.VectorcardiogramPerturbation(max_angle_deg=45, max_scale=1.5).draw(
        signals, all_leads(5000), generator()
    )
    degrees = draws["angles"].rad2deg()
    assert -45 <= degrees.min() < -44.5
    assert 44.5 < degrees.max() <= 45
    assert 1 <= draws["scales"].min() < 1.01
    assert 1.49 < draws["scales"].max() <= 1.5


def test_leads_are_found_by_name_and_not_by_place():
    signals = real_like(2)
    order = [STANDARD_LEADS.index(name) for name in MIMIC_LEADS]
    draws = aug.VectorcardiogramPerturbation().draw(signals, all_leads(2), generator())
    standard = aug.VectorcardiogramPerturbation().transform(signals, all_leads(2), **draws)
    mimic = aug.VectorcardiogramPerturbation(MIMIC_LEADS).transform(signals[:, order], all_leads(2), **draws)
    torch.testing.assert_close(mimic, standard[:, order])
    with pytest.raises(ValueError, match="needs the twelve standard leads"):
        aug.VectorcardiogramPerturbation(("I", "II", "V1"))
    with pytest.raises(ValueError, match="needs the twelve standard leads"):
        aug.VectorcardiogramPerturbation((*STANDARD_LEADS[:11], "V5"))


def test_a_record_without_one_of_the_eight_leads_keeps_its_signal():
    signals, mask = real_like(3), all_leads(3)
    mask[1, STANDARD_LEADS.index("V3")] = False
    mask[2, STANDARD_LEADS.index("aVR")] = False
    signals[~mask] = 0
    changed, _ = aug.VectorcardiogramPerturbation()(signals, mask, generator())
    assert torch.equal(changed[1], signals[1])
    assert not torch.equal(changed[2], signals[2])
    assert not torch.equal(changed[0], signals[0])


# ---- presets


def test_the_weak_view_of_ts_tcc_scales_all_leads_of_a_moment_alike():
    ones = torch.ones(200, 12, 500)
    factors, _ = aug.tstcc_weak()(ones, None, generator())
    assert (factors == factors[:, :1]).all()
    assert factors[:, 0].mean() == pytest.approx(2.0, abs=0.02)
    assert factors[:, 0].std() == pytest.approx(1.1, rel=0.02)


def test_the_strong_view_of_ts_tcc_permutes_and_jitters():
    far_apart = (1000.0 * torch.arange(100)).expand(500, 12, -1)
    changed, _ = aug.tstcc_strong()(far_apart, None, generator())
    order = (changed / 1000).round()
    assert torch.equal(order.sort(dim=-1).values, far_apart / 1000)
    assert (changed - order * 1000).std() == pytest.approx(0.8, rel=0.02)
    assert ((order[:, 0].diff(dim=-1) != 1).sum(dim=-1)).max() <= 6


def test_three_kg_turns_and_hides_half_of_each_lead():
    signals = real_like(8)
    changed, mask = aug.three_kg()(signals, None, generator())
    hidden = changed == 0
    assert (hidden.sum(dim=-1) == 500).all()
    assert not torch.equal(changed[~hidden], signals[~hidden])
    assert mask.all()


def test_astcl_views_differ_by_noise_alone():
    signals = real_like(400, 100)
    (first, _), (second, _) = aug.TwoViews(aug.astcl_noise(RATE))(signals, None, generator())
    clean = (first == signals).all(dim=(1, 2)).float().mean()
    assert clean == pytest.approx(1 / 8, abs=0.05), "each of three noises with probability one half"
    assert not torch.equal(first, second)
