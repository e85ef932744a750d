"""The rules that keep the shape of the house."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "hf_ecgtext"

# Who may import whom, by the first part of the path below hf_ecgtext. Everybody may import SHARED.
SHARED = {"errors", "io", "leads", "limb_lead_order"}
ALLOWED = {
    "errors": set(),
    "io": set(),
    "leads": set(),
    "limb_lead_order": set(),
    "encoders": set(),
    "objectives": set(),
    "data": set(),
    "processing": {"data"},
    "methods": {"encoders", "objectives", "processing"},
    "training": {"encoders", "methods", "data", "processing"},
    "evaluation": {"methods", "data", "processing"},
    "finetuning": {"encoders", "methods", "data", "processing", "training", "evaluation"},
    "harness": {"methods", "data", "processing", "evaluation", "finetuning"},
    "generation": {"encoders", "processing", "data"},
    "pipelines": {"methods", "data", "processing"},
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


def test_importing_the_package_writes_nothing_and_changes_no_warning_filter(tmp_path):
    program = (
        "import warnings, accelerate, datasets, pandas, scipy.signal, torch, transformers\n"
        "from transformers import AutoModel, BertModel, Pipeline, ProcessorMixin, Trainer\n"
        "before = list(warnings.filters)\n"  # whatever those packages did, ours does nothing more
        "import hf_ecgtext\n"
        "assert list(warnings.filters) == before\n"
    )
    environment = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment, timeout=120)
    assert [entry.name for entry in tmp_path.rglob("*") if entry.is_file()] == []
