"""Draws the packages of `hf_ecgtext` and who imports whom, from the import statements: docs/images/house.svg.

Each package stands one row above the highest one that it imports. Arrows that follow from others are left out: where
`training` imports `methods` and `methods` imports `encoders`, there is no arrow from `training` to `encoders`.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "hf_ecgtext"
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 176, 74, 18, 46, 16  # pixels


def imports() -> dict[str, set[str]]:
    """Which packages each one imports; the few files beside them (errors, leads, ...) are open to all."""
    units = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    found: dict[str, set[str]] = {}
    for unit in sorted(units):
        names: set[str] = set()
        for file in (PACKAGE / unit).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "hf_ecgtext":
                    names.update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_ecgtext."):
                    names.add((node.module or "").split(".")[1])
        found[unit] = (names & units) - {unit}
    return found


def rows(graph: dict[str, set[str]]) -> list[list[str]]:
    """The packages by row, the lowest first.

    Raises:
        ValueError: If packages import one another in a circle.
    """
    height: dict[str, int] = {}
    while len(height) < len(graph):
        ready = [unit for unit in graph if unit not in height and graph[unit] <= height.keys()]
        if not ready:
            raise ValueError(f"These packages import one another in a circle: {sorted(set(graph) - set(height))}.")
        height |= {unit: 1 + max((height[below] for below in graph[unit]), default=-1) for unit in ready}
    return [sorted(unit for unit in graph if height[unit] == row) for row in range(1 + max(height.values()))]


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that do not follow from others."""

    def reach(unit: str) -> set[str]:
        return graph[unit].union(*(reach(below) for below in graph[unit]))

    return {unit: below - set().union(*(reach(other) for other in below)) for unit, below in graph.items()}


def summary(unit: str) -> str:
    """The first sentence of a package's docstring."""
    file = PACKAGE / unit / "__init__.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters, three at most."""
    lines = [""]
    for word in text.replace("`", "").split():
        if len(lines[-1]) + len(word) + 1 > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines if len(lines) <= 3 else [*lines[:2], f"{lines[2][: width - 2]} ..."]


def picture() -> str:
    """The SVG."""
    graph = imports()
    levels = rows(graph)
    widest = max(map(len, levels))
    total_width = 2 * _MARGIN + widest * _WIDTH + (widest - 1) * _GAP_X
    total_height = 2 * _MARGIN + len(levels) * _HEIGHT + (len(levels) - 1) * _GAP_Y
    place: dict[str, tuple[float, float]] = {}  # of the upper left corner
    for row, units in enumerate(levels):
        left = (total_width - len(units) * _WIDTH - (len(units) - 1) * _GAP_X) / 2
        top = total_height - _MARGIN - (row + 1) * _HEIGHT - row * _GAP_Y
        place |= {unit: (left + column * (_WIDTH + _GAP_X), top) for column, unit in enumerate(units)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
        'font-family="system-ui, sans-serif">',
        "<title>The packages of hf_ecgtext; an arrow points from a package to one that it imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#5f8a8b"/></marker></defs>',
        f'<rect width="{total_width}" height="{total_height}" fill="#ffffff"/>',
    ]
    for unit, below in sorted(direct(graph).items()):
        for other in sorted(below):
            (x1, y1), (x2, y2) = place[unit], place[other]
            x1, y1, x2 = x1 + _WIDTH / 2, y1 + _HEIGHT, x2 + _WIDTH / 2
            bend = (y2 - y1) / 2
            parts.append(
                f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} '
                f'{x2:.0f},{y2 - 1:.0f}" '
                'fill="none" stroke="#5f8a8b" stroke-width="1.3" opacity="0.75" marker-end="url(#tip)"/>'
            )
    for unit, (x, y) in sorted(place.items()):
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="7" '
            'fill="#eef5f4" stroke="#2f6f6f"/>'
            f'<text x="{x + _WIDTH / 2:.0f}" y="{y + 19:.0f}" text-anchor="middle" font-size="14" font-weight="600" '
            f'fill="#123">{escape(unit)}</text>'
        )
        for number, line in enumerate(wrapped(summary(unit), 31)):
            parts.append(
                f'<text x="{x + _WIDTH / 2:.0f}" y="{y + 36 + 13 * number:.0f}" text-anchor="middle" font-size="10.5" '
                f'fill="#345">{escape(line)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])
