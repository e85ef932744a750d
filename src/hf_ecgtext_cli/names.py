"""Names that the options offer, found without importing the library.

Methods, sources and prompt sets are read off its folders; what the library keeps in tables of its own is repeated here,
and a test compares the two.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

EVALUATIONS = ("zero_shot", "single_label", "linear_probe", "retrieval", "distribution_shift")
BASELINES = ("random", "interval_features", "supervised")
PROTOCOLS = ("strict", "published")
FINETUNING_RECIPES = ("default", "cmelt_dx", "from_scratch")
LEAD_ORDERS = ("mimic", "standard")
LEADS = {12: "all", 6: "limb leads", 3: "I, II, V2", 2: "I, II", 1: "I"}
"""Numbers of leads that a model is fine-tuned with, and which they are."""


def method_names() -> list[str]:
    """The folders of `hf_ecgtext.methods`."""
    return [path.parent.name for path in sorted(_library("methods").glob("*/__init__.py"))]


def convertible_methods() -> list[str]:
    """The methods with a `convert_<method>_checkpoint.py`."""
    methods = _library("methods")
    return [name for name in method_names() if (methods / name / f"convert_{name}_checkpoint.py").is_file()]


def recipe_names(method: str) -> list[str]:
    """The public functions of a method's `recipes.py`."""
    functions = ast.parse((_library("methods") / method / "recipes.py").read_text(encoding="utf-8")).body
    return sorted(
        node.name for node in functions if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )


def source_names() -> list[str]:
    """The datasets whose original downloads can be read: the modules of `hf_ecgtext.data.sources` with a `SOURCE`."""
    return _sources_with({"SOURCE"})


def data_names() -> list[str]:
    """The data that can be trained on by name."""
    return _sources_with({"SOURCE", "open_data"})


def prompt_set_names() -> list[str]:
    """The prompt sets that come with the library."""
    return sorted(path.stem for path in _library("evaluation", "prompts").glob("*.json"))


def _library(*folders: str) -> Path:
    spec = importlib.util.find_spec("hf_ecgtext")  # which finds it and does not import it
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("The package hf_ecgtext is not installed.", name="hf_ecgtext")
    return Path(spec.submodule_search_locations[0]).joinpath(*folders)


def _sources_with(attributes: set[str]) -> list[str]:
    folder = _library("data", "sources")
    modules = {path.stem: path for path in folder.glob("*.py")}
    modules |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    return sorted(name for name, path in modules.items() if attributes & _names_in(path))


def _names_in(module: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names
