"""Writers of small WFDB and CPSC2018 records; `wfdb.wrsamp` takes 100 ms a record, these take one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings

from hf_ecgtext.leads import STANDARD_LEADS

with warnings.catch_warnings():
    # wfdb 4.3.1 passes an argument that pandas 3.1 deprecates, once, while it is imported.
    warnings.filterwarnings("ignore", message="The inplace keyword", category=DeprecationWarning)
    import wfdb

__all__ = ["FUZZ", "header_text", "millivolts", "random_adc", "wfdb", "write_record"]

RECORD_LINE = "{name} {num_leads} 500 {num_samples}"

FUZZ = settings(
    derandomize=True, deadline=None, max_examples=150, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def random_adc(num_leads: int = 12, num_samples: int = 50, seed: int = 0, limit: int = 2400) -> np.ndarray:
    """int16 samples up to a limit: at 1000 to the millivolt, the default is what an ECG has."""
    return np.random.default_rng(seed).integers(-limit, limit + 1, (num_leads, num_samples)).astype(np.int16)


def header_text(
    name: str,
    adc: np.ndarray,
    *,
    lead_names: Sequence[str] = STANDARD_LEADS,
    scale: str = "1000.0(0)/mV",
    storage: str = "16",
    extension: str = ".dat",
    record_line: str = RECORD_LINE,
    comments: Sequence[str] = (),
) -> str:
    """The header of `adc`, with the checksums of its rows."""
    lines = [record_line.format(name=name, num_leads=len(adc), num_samples=adc.shape[1])]
    for lead, row in zip(lead_names, adc, strict=False):
        checksum = int(row.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}{extension} {storage} {scale} 16 0 {row[0]} {checksum} 0 {lead}")
    return "\n".join([*lines, *comments, ""])


def write_record(folder: Path, name: str = "r1", adc: np.ndarray | None = None, **header: object) -> Path:
    """A format-16 record; `storage="16+24"` puts 24 bytes before the samples, as PhysioNet's `.mat` files do."""
    adc = random_adc() if adc is None else adc
    offset = int(str(header.get("storage", "16")).partition("+")[2] or 0)
    extension = str(header.get("extension", ".dat"))
    (folder / f"{name}{extension}").write_bytes(bytes(offset) + adc.T.astype("<i2").tobytes())
    (folder / f"{name}.hea").write_text(header_text(name, adc, **header), encoding="utf-8")  # type: ignore[arg-type]
    return folder / name


def millivolts(adc: np.ndarray, gain: float = 1000.0, baseline: float = 0.0) -> np.ndarray:
    """The closed form, in float64 and rounded once."""
    signal = (adc.astype(np.float64) - baseline) / gain
    signal[adc == -32768] = np.nan
    return signal.astype(np.float32)
