"""Draws the README's picture: a synthetic ECG, and what the model of the README's first command answers about it.

    python scripts/readme_picture.py --model outputs/merl-quickstart-synthetic

The record is the first of a seed that the training did not see whose report names the finding that is asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from transformers import pipeline

import hf_ecgtext  # noqa: F401  (registers models and pipelines)
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "answers.png"
FINDING, SEED = "left bundle branch block", 11
LABELS = [
    "left bundle branch block", "right bundle branch block", "atrial fibrillation", "left ventricular hypertrophy",
    "inferior myocardial infarction", "normal ECG",
]  # fmt: skip
# The usual arrangement on paper: 2.5 s of each lead, four columns of three.
COLUMNS = [("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6")]
_SECONDS, _ROW_MV = 2.5, 2.6


def main() -> None:
    """Ask, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/merl-quickstart-synthetic")
    arguments = parser.parse_args()
    records = SyntheticEcgGenerator(seed=SEED, sampling_rate_hz=100.0).records(300)
    record = next(found for found in records if FINDING in (found.report or "").lower())
    answers = pipeline("zero-shot-ecg-classification", model=arguments.model)(record, candidate_labels=LABELS)

    figure, (paper, bars) = pyplot.subplots(1, 2, figsize=(12, 3.9), width_ratios=[2.5, 1], layout="constrained")
    rate = record.sampling_rate_hz
    length = int(_SECONDS * rate)
    for column, leads in enumerate(COLUMNS):
        for row, lead in enumerate(leads):
            values = record.signal[record.lead_names.index(lead)][column * length : (column + 1) * length]
            times = column * _SECONDS + np.arange(len(values)) / rate
            paper.plot(times, values - row * _ROW_MV, color="#1a1a1a", linewidth=0.9)
            paper.text(column * _SECONDS + 0.06, 0.75 - row * _ROW_MV, lead, fontsize=9, weight="bold")
    width, bottom, top = _SECONDS * len(COLUMNS), -2 * _ROW_MV - 1.6, 1.6
    for step, line, colour in ((0.04, 0.3, "#f7dede"), (0.2, 0.6, "#efb8b8")):  # 1 mm and 5 mm at 25 mm/s
        paper.vlines([n * step for n in range(int(width / step) + 1)], bottom, top, colour, linewidth=line, zorder=0)
        millivolts = step * 2.5  # 10 mm/mV
        count = int((top - bottom) / millivolts) + 1
        paper.hlines([bottom + n * millivolts for n in range(count)], 0, width, colour, linewidth=line, zorder=0)
    paper.set(xlim=(0, width), ylim=(bottom, top), xticks=[], yticks=[])
    paper.set_title(f"Its report: {record.report}", fontsize=10, loc="left", wrap=True)

    names, scores = [found["label"] for found in answers][::-1], [found["score"] for found in answers][::-1]
    is_reported = [name.lower() in (record.report or "").lower() and name != "normal ECG" for name in names]
    bars.barh(names, scores, color=["#0072B2" if known else "#9db7c7" for known in is_reported], height=0.62)
    bars.axvline(0, color="#444444", linewidth=0.8)
    bars.set_title("What the model answers (cosine; dark: in the report)", fontsize=10, loc="left")
    bars.spines[["top", "right", "left"]].set_visible(False)
    bars.tick_params(left=False, labelsize=9)
    figure.savefig(OUT, dpi=110, metadata={"Software": None})
    print(f"Wrote {OUT}")


if __name__ == "__main__":
    main()
