"""`training_recipe.yaml`: what a checkpoint was trained by, as options that `hf-ecgtext train --config` reads."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from hf_ecgtext.methods.recipe import Recipe

RECIPE_FILE = "training_recipe.yaml"

_LIBRARIES = ("hf-ecgtext", "torch", "transformers", "accelerate", "datasets", "numpy")


def recorded_recipe(
    recipe: Recipe,
    *,
    method: str,
    name: str,
    data: str,
    data_dir: str | None,
    data_options: Mapping[str, Any],
    data_revision: str,
    seed: int,
) -> str:
    """The text of the file.

    Every setting of the recipe stands in it, so that a later version of the library, whose recipe of this name may
    have other numbers, trains the same.

    Args:
        recipe ([`~hf_ecgtext.methods.recipe.Recipe`]): With all changes.
        method, name (`str`): Of which method, and of which of its recipes.
        data, data_dir (`str`): As [`~hf_ecgtext.data.opening.open_data`] takes them; paths are noted in full.
        data_options (`Mapping[str, Any]`): Options of the data, those that the recipe asks for among them.
        data_revision (`str`): Which data were found there; noted, and not read back.
        seed (`int`): Of weights and order.
    """
    options: dict[str, Any] = {"method": method, "recipe": name, "data": _in_full(data)}
    if data_dir is not None:
        options["data-dir"] = _in_full(data_dir)
    options |= {
        "data-set": dict(data_options),
        "seed": seed,
        "set": recipe.settings(),
        "versions": {
            **{library: version(library) for library in _LIBRARIES},
            "python": platform.python_version(),
            "data": data_revision,
        },
    }
    plain = json.loads(json.dumps(options))  # YAML has no tuples
    return (
        "# What this model was trained by. Train it again, into another folder:\n"
        f"#     hf-ecgtext train --config {RECIPE_FILE} --output-dir FOLDER\n"
        f"{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)}"
    )


def recorded_seed(folder: str | Path) -> int | None:
    """The seed that a checkpoint's folder says it was trained with; `None` where it has no such file."""
    path = Path(folder) / RECIPE_FILE
    return int(yaml.safe_load(path.read_text(encoding="utf-8"))["seed"]) if path.is_file() else None


def _in_full(place: str) -> str:
    return str(Path(place).absolute()) if Path(place).exists() else place
