"""The code blocks of README.md and docs/, and what stands before each of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?P<before>(?:^<!--[^\n]*-->\n)?)^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class CodeBlock:
    """One block.

    Args:
        page (`Path`): Where it stands.
        language (`str`): Such as `"bash"`.
        code (`str`): Its lines.
        marker (`str`): The comment right before it, without its brackets; empty where there is none.
    """

    page: Path
    language: str
    code: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.code.splitlines()[0]}"

    @property
    def reason_not_to_run(self) -> str | None:
        """What stands behind `not run:`."""
        return self.marker.removeprefix("not run:").strip() if self.marker.startswith("not run:") else None

    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block; continued lines are one command, `&&` stands between two."""
        found = []
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                place = words.index("&&")
                found.append(words[:place])
                words = words[place + 1 :]
            if words:
                found.append(words)
        return found


def code_blocks(page: Path) -> Iterator[CodeBlock]:
    """All blocks of a page, in order."""
    for found in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        marker = found["before"].strip().removeprefix("<!--").removesuffix("-->").strip()
        yield CodeBlock(page, found["language"], found["code"], marker)


def own_command(words: list[str]) -> list[str] | None:
    """The arguments of `hf-ecgtext` in a command line, whichever way it is started; `None` for other programs."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]  # variables of the environment
    if not words:
        return None
    if words[0] == "hf-ecgtext":
        return words[1:]
    if "train.py" in words:
        return ["train", *words[words.index("train.py") + 1 :]]
    return None
