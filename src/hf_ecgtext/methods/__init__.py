"""One folder per paper. Importing this package registers every method with the Auto classes of transformers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from hf_ecgtext.methods.recipe import Recipe


def method_names() -> list[str]:
    """The folders of this package, one per method."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def recipe_names(method: str) -> list[str]:
    """The recipes of a method: the public functions of its `recipes.py` that return a [`Recipe`]."""
    module = importlib.import_module(f"{__name__}.{_known(method)}.recipes")
    return sorted(
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    )


def get_recipe(method: str, name: str) -> Recipe:
    """Look up a recipe.

    Raises:
        ValueError: If there is no such method or recipe; the message lists those there are.
    """
    names = recipe_names(method)
    if name not in names:
        raise ValueError(f"Method '{method}' has no recipe '{name}'. Its recipes: {', '.join(names)}.")
    module = importlib.import_module(f"{__name__}.{method}.recipes")
    return getattr(module, name)()


def _known(method: str) -> str:
    if method not in method_names():
        raise ValueError(f"There is no method '{method}'. Methods: {', '.join(method_names())}.")
    return method


for _name in method_names():
    importlib.import_module(f"{__name__}.{_name}")

__all__ = ["Recipe", "get_recipe", "method_names", "recipe_names"]
