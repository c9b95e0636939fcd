"""The command ``pvemu``: one module for each verb, imported only when it is used."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING

from pvemu.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["main"]

_VERBS = {
    "boot": "boot a kernel and watch its console",
    "diff": "show where two runs part",
    "debug": "stop a guest, look around, and go back",
    "gdb": "serve gdb's remote protocol, in both directions",
    "grub-shell": "run a GRUB script on GRUB's Xen port and print its output, as GRUB's own grub-shell",
    "image": "make guest images from recipes",
    "replay": "have a recorded run again, exactly",
    "test": "run scenarios: guests with what is typed and what must come of it",
    "trace": "boot a kernel and write down what it does",
    "xl": "xl's commands, for tools that call xl",
}
#: Objects made before Python's collector of cycles looks at the newest: at its own 700 a tenth of the time to a guest's
#: first output would go into walking, over and over, what was just imported and stays.
_GC_THRESHOLD = 50_000
_BAD_INPUT, _OUR_ERROR, _INTERRUPTED = 2, 4, 130


def _module(verb: str) -> ModuleType:
    return importlib.import_module(f"pvemu.cli.{verb.replace('-', '_')}")


def _versions() -> str:
    """``pvemu 0.1.0, unicorn 2.1.4``."""
    from importlib.metadata import PackageNotFoundError, version

    def known(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:  # run from a source tree
            return f"{name} (not installed)"

    return ", ".join(map(known, ("pvemu", "unicorn")))


class _Version(argparse.Action):
    """Looks the versions up only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(_versions())
        parser.exit()


def _parser(verb: str | None) -> argparse.ArgumentParser:
    """The command line; only the module of the verb in use is imported. ``verb`` is the first word: all others are left
    out, as nothing but ``pvemu --help`` and a wrong verb would name them.
    """
    parser = argparse.ArgumentParser(
        prog="pvemu", description="Boots Xen x86 PV guests with no hypervisor, to test boot loaders."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of pvemu and its engine")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    if verb is not None:
        _module(verb).add_parser(subparsers)
        return parser
    for name, text in _VERBS.items():
        subparsers.add_parser(name, help=text, description=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 2 for bad usage or input, 4 for an error of pvemu."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words and words[0] in _VERBS else None
    gc.set_threshold(_GC_THRESHOLD)
    arguments = _parser(verb).parse_args(words)
    try:
        return int(_module(arguments.verb).run(arguments))
    except InputError as error:
        print(f"pvemu: {error}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print("pvemu: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does: no message, and none from Python's exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _INTERRUPTED - 2 + 13  # 128 + SIGPIPE
    except Exception:  # noqa: BLE001 - whatever is left is our bug: say so, with everything needed to file it
        _report_bug(words)
        return _OUR_ERROR


def _report_bug(words: list[str]) -> None:
    """A crash report of pvemu itself."""
    import platform
    import shlex
    import traceback

    print("pvemu: an error of pvemu itself. Please file it with this report:", file=sys.stderr)
    print(f"  command: pvemu {shlex.join(words)}", file=sys.stderr)
    print(f"  versions: {_versions()}, Python {platform.python_version()}, {platform.platform()}", file=sys.stderr)
    for line in traceback.format_exc().rstrip().splitlines():
        print(f"  {line}", file=sys.stderr)
