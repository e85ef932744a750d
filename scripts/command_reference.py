"""The page docs/commands.md, from the parsers themselves."""

from __future__ import annotations

import argparse

from hf_ecgtext_cli.main import build_parser

_HEAD = """# Commands

Every option of every command, made from the parsers by `python scripts/update_docs.py`. A misspelt command or option is
answered with the one that was meant. `--config FILE.yaml` reads options by their names; the command line wins over the
file. The Tab key completes commands and options after `eval "$(hf-ecgtext --print-completion bash)"`.
"""


def command_reference() -> str:
    """The page."""
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    pages = [_HEAD]
    for name, command in commands.choices.items():
        rows = [_row(action) for action in command._actions if action.help not in (argparse.SUPPRESS, None)]
        required = " ".join(_usage(action) for action in command._actions if _is_required(action))
        pages.append(
            f"## {name}\n\n{_sentence(command.description or '')}\n\n```text\nhf-ecgtext {name} {required} ...\n```\n\n"
            "| option | values | meaning |\n|---|---|---|\n" + "\n".join(row for row in rows if row) + "\n"
        )
    return "\n".join(pages)


def _is_required(action: argparse.Action) -> bool:
    return action.required or (not action.option_strings and action.nargs not in ("?", "*"))


def _usage(action: argparse.Action) -> str:
    values = action.metavar or (action.dest if not action.option_strings else action.dest.upper())
    text = values if isinstance(values, str) else " ".join(values)
    return f"{action.option_strings[-1]} {text}" if action.option_strings else text.upper()


def _row(action: argparse.Action) -> str:
    if isinstance(action, argparse._HelpAction):
        return ""
    name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.dest.upper()}`"
    if action.choices:
        values = ", ".join(f"`{choice}`" for choice in action.choices)
    elif action.nargs == 0:
        values = ""
    else:
        metavar = action.metavar or action.dest.upper()
        values = f"`{metavar if isinstance(metavar, str) else ' '.join(metavar)}`"
    if action.nargs in ("+", "*"):
        values += " ..."
    text = (action.help or "") % {**vars(action), "prog": "hf-ecgtext"}
    return f"| {name} | {_cell(values)} | {_cell(' '.join(text.split()))} |"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":", ")")) else ".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
