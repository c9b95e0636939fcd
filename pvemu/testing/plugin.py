"""The pytest plugin: guests and images as fixtures, and all there is to see of a guest when its test fails.

Nothing of pvemu is imported before a fixture is used: a test run that boots nothing pays nothing.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from os import PathLike

    from pvemu.mkimage import Built
    from pvemu.testing.guest import Guest

__all__ = ["BuildImage", "StartGuest", "pv_guest", "pv_image"]

#: Of what is kept of a guest, what a report shows, under which title.
_SHOWN = {
    "console": "console.txt",
    "screen": "screen.txt",
    "last hypercalls": "hypercalls.txt",
    "xenstore": "xenstore.txt",
    "to repeat it": "repro.sh",
}
_GUESTS: pytest.StashKey[list[Guest]] = pytest.StashKey()


class StartGuest(Protocol):
    """What the ``pv_guest`` fixture is: ``Guest.boot``, and the guest is closed when the test is over."""

    def __call__(
        self, kernel: str | PathLike[str], *disks: str | PathLike[str], memory: int = 128, cmdline: str = "",
        ramdisk: str | PathLike[str] | None = None, write: bool = False, strict_seed: int | None = None,
    ) -> Guest:  # fmt: skip
        """Start a guest."""
        ...


class BuildImage(Protocol):
    """What the ``pv_image`` fixture is: builds a recipe (a name, or a path with a slash), or one given as ``text``
    (then ``recipe`` is the name that messages and the cache show).
    """

    def __call__(self, recipe: str | PathLike[str], *, text: str | None = None) -> Built:
        """Build a recipe, or find it built."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option, in a group of its own."""
    parser.getgroup("pvemu").addoption(
        "--pvemu-artifacts", metavar="DIR", default=None,
        help="keep the console, screen, hypercalls, xenstore and a command to repeat it of each failed test's guests",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """The markers, for --strict-markers and --markers."""
    for line in (
        "needs_package(*names): skip where these Debian packages cannot be had",
        "needs_image(*recipes): skip where these recipes cannot be built",
    ):
        config.addinivalue_line("markers", line)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what this machine cannot get."""
    packages = [name for marker in item.iter_markers("needs_package") for name in marker.args]
    recipes = [name for marker in item.iter_markers("needs_image") for name in marker.args]
    if packages or recipes:
        from pvemu.errors import InputError
        from pvemu.mkimage import build
        from pvemu.mkimage.packages import PackageCache

        try:
            PackageCache().get(packages)
            for recipe in recipes:
                build(recipe)
        except InputError as error:
            pytest.skip(str(error))


@pytest.fixture
def pv_guest(request: pytest.FixtureRequest) -> Iterator[StartGuest]:
    """Starts Xen PV guests: ``pv_guest(kernel, "xvda=disk.img", memory=256)`` gives a pvemu.testing.guest.Guest."""
    guests: list[Guest] = []
    request.node.stash[_GUESTS] = guests

    def start(
        kernel: str | PathLike[str], *disks: str | PathLike[str], memory: int = 128, cmdline: str = "",
        ramdisk: str | PathLike[str] | None = None, write: bool = False, strict_seed: int | None = None,
    ) -> Guest:  # fmt: skip
        from pvemu.testing.guest import Guest

        guest = Guest.boot(
            kernel, *disks, memory=memory, cmdline=cmdline, ramdisk=ramdisk, write=write, strict_seed=strict_seed
        )
        guests.append(guest)
        return guest

    yield start
    for guest in guests:
        guest.close()
    guests.clear()


@pytest.fixture(scope="session")
def pv_image() -> BuildImage:
    """Builds images from recipes: ``pv_image("demo")["demo.img"]`` is a disk image's path, shared and read-only."""

    def build_image(recipe: str | PathLike[str], *, text: str | None = None) -> Built:
        from pvemu.mkimage import build

        if text is None:
            return build(recipe if isinstance(recipe, str) else Path(recipe))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / str(recipe) / "recipe.toml"
            file.parent.mkdir()
            file.write_text(text, encoding="utf-8")
            return build(file)

    return build_image


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's guests go into its report, and into ``--pvemu-artifacts``."""
    report = yield
    guests = item.stash.get(_GUESTS, [])
    if report.failed and call.when != "teardown":
        folder = item.config.getoption("--pvemu-artifacts")
        for number, guest in enumerate(guests):
            from pvemu.testing.exhibits import exhibits

            shown = exhibits(guest)
            report.sections += [
                (f"pvemu guest {number}: {title}", shown[name].decode("utf-8", "replace"))
                for title, name in _SHOWN.items()
            ]
            if folder is not None:
                _keep(Path(folder) / _file_name(item.nodeid) / f"guest-{number}", shown)
    return report


def _keep(folder: Path, shown: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in shown.items():
        (folder / name).write_bytes(content)


def _file_name(node: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", node).strip("-")
