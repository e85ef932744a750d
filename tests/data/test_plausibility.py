"""What no ECG has, whoever reads it: rates and amplitudes, from the header to a prepared folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from file_server import Fault, FileServer
from hypothesis import given
from hypothesis import strategies as st
from make_mimic import write_mimic_tree
from reading_fixtures import FUZZ, random_adc

from hf_ecgtext.data.files.opening import open_tree
from hf_ecgtext.data.files.remote import RemoteSettings
from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.plausibility import (
    DOUBTFUL_ABOVE_MV,
    DOUBTFUL_BELOW_MV,
    IMPOSSIBLE_ABOVE_MV,
    check_sampling_rate,
    glance,
    judge_amplitude,
    needs_judgement,
    refuse_impossible_samples,
)
from hf_ecgtext.data.prepare.prepare import prepare
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.data.sources.mimic_iv_ecg import MimicIvEcg
from hf_ecgtext.data.wfdb.reading import read_record
from hf_ecgtext.errors import PreparationError, RecordError

QUICK = RemoteSettings(timeout_s=0.3, attempts=2, backoff_s=0.0)


def noise(num_samples: int = 2000, seed: int = 0) -> np.ndarray:
    """Leads that span about 2 mV, with rare peaks of twice that."""
    return np.random.default_rng(seed).normal(scale=0.5, size=(12, num_samples))


@pytest.mark.parametrize("rate", [20, 100, 128.0, 250, 257.3, 500, 1000, 16_000, 20_000])
def test_every_rate_that_recorders_have_is_taken(rate: float) -> None:
    check_sampling_rate(rate, "r1", "")


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1, 0, 1e-300, 5, 19.9, 20_001, 1e9, 1e308])
def test_a_rate_that_no_recorder_has_is_refused_with_those_that_they_have(rate: float) -> None:
    with pytest.raises(RecordError, match=r"Record 'r1': a sampling rate of \S+ Hz cannot .*20 to 20,000 Hz.*Mend it"):
        check_sampling_rate(rate, "r1", "Mend it.")


@pytest.mark.parametrize(
    ("factor", "is_impossible", "words"),
    [
        (1e3, True, "looks like microvolts (unit 'uV') or the counts of a converter"),
        (200, True, "looks like microvolts (unit 'uV') or the counts of a converter"),
        (1e6, True, "nanovolts (unit 'nV')"),
        (1e10, True, "looks like the counts of a converter"),
        (5, False, "such as 0.1 mV"),
        (0.005, False, "may hold no ECG"),
        (1e-3, True, "may be in volts (unit 'V')"),
        (1e-9, True, "may be in volts (unit 'V')"),
    ],
)
def test_the_likely_unit_is_named(factor: float, is_impossible: bool, words: str) -> None:
    signal = noise() * factor
    assert needs_judgement(np.ptp(glance(signal), axis=-1))
    doubt = judge_amplitude(signal)
    assert doubt is not None
    assert doubt.is_impossible == is_impossible
    assert words in doubt.problem


def test_artefacts_offsets_gaps_and_missing_leads_are_no_reason_for_doubt() -> None:
    spiky = noise()
    spiky[:, ::300] = 400.0  # a pacemaker in every lead
    off = noise()
    off[:5] = np.where(np.arange(2000) % 700 < 300, 32.767, -32.768)  # electrodes off in five leads
    shifted = noise() + np.linspace(-300, 300, 12)[:, None]  # what electrodes may add
    gaps = noise()
    gaps[:, 100:900] = np.nan
    gaps[4] = np.nan
    gaps[5, ::2] = np.inf
    single = np.zeros((12, 2000))
    single[1] = noise()[1]
    for signal in (spiky, off, shifted, gaps, single, noise(30), noise(1), np.zeros((12, 5)), np.full((2, 9), np.nan)):
        assert judge_amplitude(signal) is None


@FUZZ
@given(st.integers(0, 99), st.sampled_from([1e3, 200.0, 1e6, 1e-3]), st.integers(0, 5), st.integers(300, 5000))
def test_a_wrong_unit_shows_at_a_glance_whatever_leads_are_off(
    seed: int, factor: float, num_off: int, length: int
) -> None:
    signal = noise(length, seed) * factor
    signal[:num_off] = 0
    assert needs_judgement(np.ptp(glance(signal), axis=-1))
    doubt = judge_amplitude(signal)
    assert doubt is not None
    assert doubt.is_impossible


def test_stored_integers_are_judged_in_millivolts() -> None:
    adc, baseline = random_adc(12, 500), np.full(12, 700, np.int32)
    adc[3, 40] = -32768  # missing
    refuse_impossible_samples(adc, np.full(12, 1000.0), baseline, "r1")
    for gain, unit in ((1.0, "microvolts"), (-1.0, "microvolts"), (1e6, "volts")):
        with pytest.raises(RecordError, match=rf"Record 'r1': its leads typically span .*{unit}"):
            refuse_impossible_samples(adc, np.full(12, gain), baseline, "r1")
    millivolts = (adc / 1000).astype(np.float32)
    refuse_impossible_samples(millivolts, np.ones(12), np.zeros(12, np.int32), "r1")
    with pytest.raises(RecordError, match="microvolts"):
        refuse_impossible_samples(millivolts * 1000, np.ones(12), np.zeros(12, np.int32), "r1")


def test_no_real_recording_is_refused_or_doubted(real_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    headers = sorted((real_data / "csn").rglob("*.hea")) + sorted((real_data / "cinc2021").rglob("*.hea"))
    headers += sorted((real_data / "ptb-xl" / "records500").rglob("*.hea"))[::10]
    spans = []
    for header in headers:
        signal = read_record(header).signal
        span = np.diff(np.nanpercentile(signal, (1, 99), axis=1), axis=0)[0]
        spans.append(np.median(span[span > 0]))
    assert "typically span" not in caplog.text
    assert len(headers) > 200
    assert min(spans) > 5 * DOUBTFUL_BELOW_MV
    assert max(spans) < DOUBTFUL_ABOVE_MV < IMPOSSIBLE_ABOVE_MV / 2


# From a download


def damaged(folder: Path, num_records: int = 12) -> dict[str, tuple[str, str]]:
    """A small MIMIC-IV-ECG; by record, what was done to its header and what must be said."""
    studies = write_mimic_tree(folder, num_records, num_samples=500)
    done = {}
    changes = (
        (" 12 500 ", " 12 1e9 ", "a sampling rate of 1e+09 Hz cannot be that of an ECG"),
        (" 12 500 ", " 12 5 ", "a sampling rate of 5 Hz cannot be that of an ECG"),
        (" 12 500 ", " 12 1e308 ", "a sampling rate of 1e+308 Hz cannot be that of an ECG"),
        ("200.0(0)/mV", "0.2(0)/mV", "looks like microvolts"),
        ("200.0(0)/mV", "200.0(0)/V", "looks like microvolts"),
        ("200.0(0)/mV", "200000(0)/mV", "may be in volts"),
    )
    for study, (old, new, words) in zip(studies, changes, strict=False):
        header = folder / f"{study.path}.hea"
        text = header.read_text()
        assert old in text
        header.write_text(text.replace(old, new))
        done[str(study.study_id)] = (new, words)
    return done


def test_prepare_skips_and_lists_what_no_ecg_is(tmp_path: Path) -> None:
    done = damaged(tmp_path / "mimic")
    manifest = prepare(
        MimicIvEcg(LocalTree(tmp_path / "mimic"), min_words=0), tmp_path / "out", workers=1, progress=False
    )
    assert sum(manifest.num_records(split) for split in manifest.splits) == 12 - len(done)
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        listed = {row["record"]: row["problem"] for row in csv.DictReader(file)}
    assert listed.keys() == done.keys()
    for record, (_, words) in done.items():
        assert words in listed[record]


def test_training_on_the_download_stops_at_what_no_ecg_is_or_replaces_it(tmp_path: Path) -> None:
    done = damaged(tmp_path / "mimic")
    source = MimicIvEcg(LocalTree(tmp_path / "mimic"), min_words=0)
    rows = source.index().records
    with pytest.raises(RecordError, match=r"(cannot be that of an ECG|typically span).*bad_records=replace"):
        RawEcgDataset(source, rows)[rows["record_id"].to_pylist().index(next(iter(done)))]
    replacing = RawEcgDataset(source, rows, bad_records="replace")
    assert not done.keys() & {replacing[number]["ecg"].record_id for number in range(len(replacing))}


# A server that gives headers and no signals


@pytest.mark.parametrize("kind", [500, 503, "drop"])
def test_prepare_stops_and_names_the_server_where_it_gives_no_signal_at_all(kind, tmp_path: Path) -> None:
    studies = write_mimic_tree(tmp_path / "mimic", 300, num_samples=50)
    with FileServer(tmp_path / "mimic") as server:
        server.faults = {f"{study.path}.dat": Fault(kind) for study in studies}
        source = MimicIvEcg(open_tree(server.url, remote=QUICK), min_words=0)
        with pytest.raises(PreparationError, match=rf"100 records in a row of {server.url} cannot be read.*server"):
            prepare(source, tmp_path / "out", workers=1, progress=False)
        asked = sum(bool(server.requests[f"{study.path}.dat"]) for study in studies)
    assert 100 <= asked < 300
    assert not (tmp_path / "out" / "prepared.json").exists()


@pytest.mark.parametrize("kind", [500, 403])
def test_training_with_replacements_does_not_ask_a_server_that_is_down_for_hours(kind, tmp_path: Path) -> None:
    studies = write_mimic_tree(tmp_path / "mimic", 40, num_samples=50)
    with FileServer(tmp_path / "mimic") as server:
        server.faults = {f"{study.path}.dat": Fault(kind) for study in studies}
        source = MimicIvEcg(open_tree(server.url, remote=QUICK), min_words=0)
        dataset = RawEcgDataset(source, source.index().records, bad_records="replace")
        with pytest.raises(RecordError, match=r"Nor can 3 others be read .*Check disk, network or server"):
            dataset[0]
        assert sum(server.requests[f"{study.path}.dat"] > 0 for study in studies) <= 4
