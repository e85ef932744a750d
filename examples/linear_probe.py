"""How much do a model's features tell a logistic regression? Measured with an interval, beside untrained features.

    python examples/linear_probe.py --model outputs/merl-quickstart-synthetic

`hf-ecgtext evaluate --evaluations linear_probe` does this by the library's protocols; here are its few steps.
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoProcessor

import hf_ecgtext  # noqa: F401  (registers models and processors)
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.data.tasks import EcgRows
from hf_ecgtext.evaluation.statistics.bootstrap import bootstrap_intervals
from hf_ecgtext.evaluation.statistics.metrics import auroc
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import EcgTextProcessor


@torch.no_grad()
def features(model: EcgTextModel, processor: EcgTextProcessor, rows: EcgRows) -> NDArray[np.float32]:
    """What the frozen ECG encoder makes of each record, `(num_records, width)`."""
    model.eval()  # in training mode, BatchNorm would adapt to these records
    found = []
    for start in range(0, len(rows), 64):
        items = rows.__getitems__(range(start, min(start + 64, len(rows))))
        inputs = processor.feature_extractor([item["ecg"] for item in items], return_tensors="pt")
        found.append(model.get_probe_features(inputs["ecg_values"], inputs["lead_mask"]).numpy())
    return np.concatenate(found)


def main() -> None:
    """Print the macro AUROC of the classes that both splits have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/merl-quickstart-synthetic")
    parser.add_argument("--records", type=int, default=1000)
    arguments = parser.parse_args()

    # Another seed than that of the training: none of these patients was seen.
    data = open_data("synthetic", num_records=arguments.records, sampling_rate_hz=100.0, seed=7)
    task = data.tasks[0]
    train, test = task.targets(data.split("train")), task.targets(data.split("test"))
    usable = (train.any(axis=0) & ~train.all(axis=0)) & (test.any(axis=0) & ~test.all(axis=0))
    processor = AutoProcessor.from_pretrained(arguments.model)
    trained = AutoModel.from_pretrained(arguments.model)
    for title, model in (("trained", trained), ("random weights", AutoModel.from_config(trained.config))):
        known, asked = (features(model, processor, data.split(split)) for split in ("train", "test"))
        scores = np.stack(
            [
                make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                .fit(known, train[:, place])
                .decision_function(asked)
                for place in np.flatnonzero(usable)
            ],
            axis=1,
        )
        patients = data.split("test").column("patient_id")
        value, low, high = bootstrap_intervals(scores, test[:, usable], patients, [auroc])["auroc"].macro()
        print(f"{title}: macro AUROC {100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})")


if __name__ == "__main__":
    main()
