"""`pvemu image build|list|show`: guest images from recipes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pvemu.mkimage import build, list_recipes
from pvemu.mkimage.describe import describe
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.recipe import load_recipe

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction

__all__ = ["add_parser", "run"]


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its three actions."""
    parser = subparsers.add_parser("image", help="make guest disk images, kernels and GRUB images from recipes")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in (
        ("build", "build recipes (or find them built) and print the paths of what they make"),
        ("show", "build recipes (or find them built) and print what is in them, with sizes and hashes"),
    ):
        one = actions.add_parser(action, help=text, description=text)
        one.add_argument("recipes", nargs="+", metavar="NAME", help="a name that `list` prints, or a path with a slash")
    text = "print the recipes that come with pvemu"
    actions.add_parser("list", help=text, description=text)


def run(arguments: argparse.Namespace) -> int:
    """Do the action; InputError goes to the caller, which knows the exit code."""
    if arguments.action == "list":
        names = list_recipes()
        width = max(map(len, names), default=0)
        for name in names:
            print(f"{name:{width}}  {load_recipe(name).description}")
        return 0
    cache = PackageCache(report=lambda text: print(text, file=sys.stderr))
    for name in arguments.recipes:
        built = build(name, cache)
        if arguments.action == "build":
            for path in built.artifacts.values():
                print(path)
        else:
            manifest = json.loads((built.directory / "manifest.json").read_text(encoding="utf-8"))
            print(f"{built.name}: {manifest['description']}\nkey {built.key}\nin {built.directory}")
            artifacts = load_recipe(name).artifacts
            for artifact, facts in manifest["artifacts"].items():
                print(f"  {artifact}  {facts['size']} bytes  sha256 {facts['sha256']}")
                for line in describe(artifacts[artifact]):
                    print(f"    {line}")
    return 0
