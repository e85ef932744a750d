"""The rules that keep the shape of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "hf_ecgtext"
SCRIPTS = ("dataset_scripts", "scripts", "examples")

# Who may import whom, by the first part of the path below hf_ecgtext. Everybody may import SHARED.
SHARED = {"errors", "hub", "io", "leads", "limb_lead_order"}
ALLOWED = {
    "errors": set(),
    "hub": set(),
    "io": set(),
    "leads": set(),
    "limb_lead_order": set(),
    "model_card": set(),
    "encoders": {"model_card"},
    "objectives": set(),
    "data": set(),
    "processing": {"data"},
    "methods": {"encoders", "objectives", "processing"},
    "training": {"encoders", "methods", "data", "processing"},
    "evaluation": {"methods", "data", "processing"},
    "finetuning": {"encoders", "methods", "data", "processing", "training", "evaluation"},
    "harness": {"methods", "data", "processing", "evaluation", "finetuning"},
    "generation": {"encoders", "processing", "data"},
    "pipelines": {"encoders", "methods", "data", "processing"},
    "reporting": {"evaluation"},
    "commands": {
        "data",
        "evaluation",
        "finetuning",
        "harness",
        "methods",
        "pipelines",
        "processing",
        "reporting",
        "training",
    },
    "cli": {"commands"},
    "__init__": {"encoders", "finetuning", "methods", "pipelines", "processing", "data"},
}


# The rooms of data/, each of which may import those before it.
DATA_ROOMS = (
    "records",
    "units",
    "plausibility",
    "tasks",
    "subsets",
    "label_maps",
    "report_cleaning",
    "random_crops",
    "bad_records",
    "ptb_xl_patients",
    "ledger",
    "augmentations",
    "synthetic",
    "wfdb",
    "files",
    "store",
    "sources",
    "prepare",
    "builders",
    "opening",
)

# What no entry point reaches, and why it is there all the same.
UNREACHED = {
    "data.augmentations": "its users are the self-supervised baselines, which are not there yet",
    "evaluation.evaluate_metrics": "its users are programs that gather their answers by Hugging Face evaluate",
}


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute in this project"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_imports() -> list[tuple[str, Path, str]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        names = (name for name in imported_modules(path) if name.startswith("hf_ecgtext."))
        found.extend((unit, path, name.removeprefix("hf_ecgtext.")) for name in names)
    return found


def test_imports_point_only_downwards():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports hf_ecgtext.{name}"
        for unit, path, name in own_imports()
        if name.split(".")[0] not in {unit} | SHARED | ALLOWED[unit]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_method_never_imports_another_method_and_nobody_else_names_one():
    methods = {folder.name for folder in (PACKAGE / "methods").iterdir() if (folder / "__init__.py").exists()}
    assert {"merl", "etp"} <= methods
    wrong = []
    for unit, path, name in own_imports():
        parts = name.split(".")
        if parts[0] == "methods" and len(parts) > 1 and parts[1] in methods:
            inside = path.relative_to(PACKAGE / "methods").parts[0] if unit == "methods" else None
            if inside != parts[1]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def module_graph(package: Path) -> dict[str, set[str]]:
    """Every module with the modules of the same package that it imports, wherever the import stands."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for module, path in files.items():
        # `from a.b import c` names the module a.b.c, or something in a.b.
        names = {name if name in files else name.rpartition(".")[0] for name in imported_modules(path)}
        graph[module] = {name for name in names if name in files and name != module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach one another (Tarjan's strongly connected components of two or more)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        stack.append(module)
        for other in graph[module]:
            if other not in numbers:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], numbers[other])
        if lowest[module] == numbers[module]:  # nothing in its group was seen before it
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in numbers:
            visit(module)
    return found


def reached(graph: dict[str, set[str]], starts: set[str]) -> set[str]:
    """The modules that are imported, directly or not, from some; whoever imports a module runs its packages too."""
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        if module in graph and module not in seen:
            seen.add(module)
            waiting += [*graph[module], module.rpartition(".")[0]]
    return seen


def test_circles_are_found_also_through_type_checking_and_functions(tmp_path):
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "from house.room import b",
        "room/__init__": "",
        "room/b": "def f():\n    from house.c import thing",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.a import thing",
        "d": "import house.a",
    }.items():
        (package / f"{name}.py").write_text(text)
    graph = module_graph(package)
    assert circles(graph) == [["house.a", "house.c", "house.room.b"]]
    assert reached(graph, {"house.a"}) == {"house", "house.a", "house.room", "house.room.b", "house.c"}


def test_no_modules_import_one_another_in_a_circle():
    assert circles(module_graph(PACKAGE)) == []


def test_the_rooms_of_data_import_only_those_below_them():
    folder = PACKAGE / "data"
    rooms = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(DATA_ROOMS), "name every room of data/ in DATA_ROOMS"
    wrong = []
    for module, names in module_graph(PACKAGE).items():
        parts = module.split(".")
        if parts[1:2] != ["data"] or len(parts) == 2:
            continue
        for name in names:
            other = name.split(".")
            in_data = other[1] == "data" and len(other) > 2  # the package itself gathers what is above
            if not (other[1] in SHARED or (in_data and DATA_ROOMS.index(other[2]) <= DATA_ROOMS.index(parts[2]))):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_module_is_reached_from_a_command_a_method_a_source_or_a_script():
    graph = module_graph(PACKAGE)
    root = PACKAGE.parents[1]
    entries = ("commands", "methods", "data.sources")
    starts = {"hf_ecgtext", "hf_ecgtext.cli"}
    starts |= {module for module in graph if module.removeprefix("hf_ecgtext.").startswith(entries)}
    for path in [root / "train.py", *(file for name in SCRIPTS for file in (root / name).rglob("*.py"))]:
        names = imported_modules(path)
        starts |= names | {name.rpartition(".")[0] for name in names}
    unreached = {module.removeprefix("hf_ecgtext.") for module in set(graph) - reached(graph, starts)}
    unexpected = {module for module in unreached if not module.startswith(tuple(UNREACHED))}
    assert not unexpected, f"nothing imports {sorted(unexpected)}: connect it, or remove it"
    mended = {name for name in UNREACHED if not any(module.startswith(name) for module in unreached)}
    assert not mended, f"{sorted(mended)} is reached or gone: take it out of UNREACHED"


@pytest.mark.parametrize("heavy", ["wfdb", "matplotlib", "sklearn", "faiss", "datasets.builder"])
def test_heavy_packages_are_not_imported_at_the_top_of_general_modules(heavy):
    allowed = {"data/sources", "data/builders"} if heavy.startswith("datasets") else set()
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE).as_posix()
        if any(relative.startswith(folder) for folder in allowed):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not any(name == heavy or name.startswith(heavy + ".") for name in names), relative


@pytest.mark.slow
def test_importing_the_package_writes_nothing_and_changes_no_warning_filter(tmp_path):
    program = (
        "import warnings, accelerate, datasets, pandas, scipy.signal, torch, transformers\n"
        "from transformers import AutoModel, BertModel, Pipeline, ProcessorMixin, Trainer\n"
        "before = list(warnings.filters)\n"  # whatever those packages did, ours does nothing more
        "import hf_ecgtext\n"
        "assert list(warnings.filters) == before\n"
    )
    environment = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment, timeout=600)
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == []
