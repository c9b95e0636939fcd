"""Guest images from recipes: Debian packages and a few lines of data become disk images, without root.

image = build("demo")
image["demo.img"]          # the path of an artifact in the cache
"""

from __future__ import annotations

from pvemu.mkimage.build import Built, build
from pvemu.mkimage.recipe import list_recipes
from pvemu.mkimage.tree import NotHereError

__all__ = ["Built", "NotHereError", "build", "list_recipes"]
