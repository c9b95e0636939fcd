"""`python -m pvemu.mkimage demo|all`: what tools/setup fetches, as a command of its own."""

from __future__ import annotations

import sys

from pvemu.errors import InputError
from pvemu.mkimage.image_builder import fetch
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.recipe import list_recipes
from pvemu.mkimage.symbol_folders import DEBUG_PACKAGE
from pvemu.mkimage.tools import TOOL_PACKAGES


def main(arguments: list[str]) -> int:
    """Fetch the packages of the named recipes (`all`: of every one and tool, and debug files); 2 is a failure."""
    names = list_recipes() if arguments == ["all"] else arguments
    try:
        cache = PackageCache(report=lambda text: print(f"setup: {text}", file=sys.stderr))
        fetch(names, cache)
        if arguments == ["all"]:
            cache.get({DEBUG_PACKAGE, *(package for names in TOOL_PACKAGES.values() for package in names)})
    except InputError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
