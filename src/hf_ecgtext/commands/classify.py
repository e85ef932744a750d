"""`hf-ecgtext classify`: ask a saved model about recordings, in words."""

from __future__ import annotations

import argparse

from transformers import pipeline

from hf_ecgtext.commands.checkpoints import load_checkpoint

_MEANING = {
    "independent": "Scores are cosines in [-1, 1]: they rank recordings for one label, and are no probabilities.",
    "exclusive": "Scores are the model's shares among these labels, and sum to one.",
}


def run(arguments: argparse.Namespace) -> None:
    """Classify and print."""
    model, processor = load_checkpoint(arguments.model)
    classifier = pipeline("zero-shot-ecg-classification", model=model, processor=processor)
    scoring = "exclusive" if arguments.exclusive else "independent"
    number = ".3f" if arguments.exclusive else "+.3f"
    for record in arguments.records:
        answers = classifier(record, candidate_labels=arguments.labels, template=arguments.template, scoring=scoring)
        print(record)
        for answer in answers:
            print(f"  {answer['score']:{number}}  {answer['label']}")
    print(f"{_MEANING[scoring]} Research software; not a medical device.")
