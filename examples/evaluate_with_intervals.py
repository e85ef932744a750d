"""Ask a model every question of a dataset, and say how sure the answers are.

    python examples/evaluate_with_intervals.py --model outputs/merl-quickstart-synthetic

`hf-ecgtext evaluate` does this from the shell, for several models and datasets at once.
"""

import argparse

from transformers import AutoModel, AutoProcessor

import hf_ecgtext  # noqa: F401  (registers models and processors)
from hf_ecgtext.data.ledger import load_ledger
from hf_ecgtext.data.opening import open_data
from hf_ecgtext.harness.matrix import evaluate_zero_shot


def main() -> None:
    """Print macro AUROC and AUPRC with their intervals, beside those of random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/merl-quickstart-synthetic")
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--folder", default="outputs/evaluation", help="keeps features and answers")
    arguments = parser.parse_args()

    # Another seed than that of the training. The ledger beside the weights knows which records were trained on; an
    # evaluation on any of them is refused.
    data = open_data("synthetic", num_records=arguments.records, sampling_rate_hz=100.0, seed=7)
    results = evaluate_zero_shot(
        AutoModel.from_pretrained(arguments.model).eval(),
        AutoProcessor.from_pretrained(arguments.model),
        data,
        checkpoint=arguments.model,
        seed=0,
        folder=arguments.folder,
        ledger=load_ledger(arguments.model),
        num_random_encoders=3,
    )
    for result in results:
        # The headline: a mean over classes with at least 5 positive records. Differences have lines of their own.
        if result.min_positives != 5 or result.compared_with or result.confidence_interval is None:
            continue
        low, high = result.confidence_interval
        assert result.value is not None
        print(f"{result.encoder:8} {result.metric}: {100 * result.value:.1f} ({100 * low:.1f} to {100 * high:.1f})")


if __name__ == "__main__":
    main()
