"""Small data and recipes that the tests of fine-tuning share."""

from __future__ import annotations

from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.context import EvaluatedTask
from hf_ecgtext.finetuning.recipes import FinetuningRecipe
from hf_ecgtext.methods import get_recipe


class Rows:
    """Some rows of a dataset, in an order, under other labels if wanted."""

    def __init__(self, rows, positions, labels=None):
        self.rows, self.positions, self.labels = rows, list(positions), labels

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, index):
        return self.__getitems__([index])[0]

    def __getitems__(self, indices):
        return self.rows.__getitems__([self.positions[index] for index in indices])

    def column(self, name):
        if name == "labels" and self.labels is not None:
            return [self.labels(position) for position in self.positions]
        values = self.rows.column(name)
        return [values[position] for position in self.positions]


def even_and_third(position: int) -> list[str]:
    """Labels that nobody can learn, of which every split has some and some records none."""
    return [name for name, step in (("even", 2), ("third", 3)) if position % step == 0]


TASK = LabelTask("parity", "labels", {"third": "third", "even": "even"})


def small_data(dataset, order=lambda positions: positions, tasks=(TASK,)) -> EcgData:
    """48 / 24 / 24 of the 96 synthetic records, in some order."""
    splits = {
        name: Rows(dataset, order(list(positions)), even_and_third)
        for name, positions in (("train", range(48)), ("validation", range(48, 72)), ("test", range(72, 96)))
    }
    return EcgData(name="small", revision="1", tasks=tuple(tasks), **splits)


def small_task(dataset, **options) -> EvaluatedTask:
    return EvaluatedTask(small_data(dataset, **options), TASK)


def short_recipe(epochs: int = 3, patience: int = 10, **training) -> FinetuningRecipe:
    settings = {"num_train_epochs": epochs, "per_device_train_batch_size": 8, "learning_rate": 3e-3, **training}
    return FinetuningRecipe(name="short", training=settings, patience=patience)


def debug_model(method: str = "merl"):
    return get_recipe(method, "debug").build(seed=0)
