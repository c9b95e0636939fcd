"""``pvemu xl``: xl's commands (:mod:`pvemu.xl`), which read their own words."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = ["add_parser", "run"]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb; what follows it is xl's."""
    text = "xl's commands, for test runners and scripts that call xl"
    parser = subparsers.add_parser("xl", help=text, description=text, add_help=False, prefix_chars="\0")
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> int:
    """One command of xl's."""
    from pvemu.xl.commands import main

    return main(arguments.words)
