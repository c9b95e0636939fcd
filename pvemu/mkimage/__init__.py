"""Guest images from recipes: Debian packages and a few lines of data become disk images, without root.

image = build("demo")
image["demo.img"]          # the path of an artifact in the cache
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvemu.mkimage.image_builder import Built, build
    from pvemu.mkimage.recipe import list_recipes
    from pvemu.mkimage.tree import NotHereError

__all__ = ["Built", "NotHereError", "build", "list_recipes"]

#: Which module has what: loaded when first used, since a trace wants no more of this package than its cache.
_HOMES = {"Built": "image_builder", "NotHereError": "tree", "build": "image_builder", "list_recipes": "recipe"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
