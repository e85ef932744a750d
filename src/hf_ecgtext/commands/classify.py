"""`hf-ecgtext classify`: ask a saved model about recordings, in words."""

from __future__ import annotations

import argparse

from transformers import pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("records", nargs="+", help="WFDB records, with or without extension")
    parser.add_argument("--model", required=True, help="folder or Hub repository of a trained model")
    parser.add_argument("--labels", nargs="+", required=True, help="what to look for, such as 'atrial fibrillation'")
    parser.add_argument("--template", default="{}", help="wraps each label (default: %(default)s)")
    parser.add_argument("--exclusive", action="store_true", help="exactly one label is true: scores sum to one")


def run(arguments: argparse.Namespace) -> None:
    """Classify and print."""
    classifier = pipeline("zero-shot-ecg-classification", model=arguments.model)
    for record in arguments.records:
        answers = classifier(
            record,
            candidate_labels=arguments.labels,
            template=arguments.template,
            scoring="exclusive" if arguments.exclusive else "independent",
        )
        print(record)
        for answer in answers:
            print(f"  {answer['score']:+.3f}  {answer['label']}")
    print("Research software; not a medical device.")
