"""Ask a trained model about one recording.

    python examples/zero_shot.py --model outputs/merl-quickstart-synthetic --record path/to/record

Without `--record`, a synthetic recording with atrial fibrillation is asked about. The model is any folder that
`train.py` saved, or a name on the Hub.
"""

import argparse

from transformers import pipeline

import hf_ecgtext  # noqa: F401  (registers models and pipelines)
from hf_ecgtext.data import EcgRecord, read_record
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator

LABELS = ["atrial fibrillation", "sinus rhythm", "left bundle branch block", "left ventricular hypertrophy"]


def recording(path: str | None) -> EcgRecord:
    """The record at a path, or the first synthetic one whose report names atrial fibrillation."""
    if path is not None:
        return read_record(path)
    records = SyntheticEcgGenerator(seed=1, sampling_rate_hz=100.0).records(500)
    return next(record for record in records if "atrial fibrillation" in (record.report or "").lower())


def main() -> None:
    """Print each label with its score, the best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/merl-quickstart-synthetic")
    parser.add_argument("--record", help="a WFDB record, without its extension")
    parser.add_argument("--labels", nargs="+", default=LABELS)
    arguments = parser.parse_args()

    record = recording(arguments.record)
    classifier = pipeline("zero-shot-ecg-classification", model=arguments.model)
    print(f"Record {record.record_id}; its report: {record.report}")
    # A score is a cosine: it ranks recordings for a label, and is no probability.
    for answer in classifier(record, candidate_labels=arguments.labels):
        print(f"{answer['score']:+.3f}  {answer['label']}")


if __name__ == "__main__":
    main()
