"""GRUB's ``grub-shell`` for its Xen ports: a script goes into a GRUB image, what it prints comes out.

The options and what the script finds are those of GRUB's tests/util/grub-shell.in; GRUB's own has no case for Xen.
Files are on (memdisk), where the other ports have a CD-ROM.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pvemu.errors import ConfigError
from pvemu.mkimage.archives import tar_ustar
from pvemu.mkimage.packages import PackageCache
from pvemu.mkimage.tools import Tool, tool
from pvemu.mkimage.tree import Directory, Node, Regular
from pvemu.testing.guest import Guest

__all__ = ["TARGETS", "GrubShell", "Output"]

TARGETS = ("x86_64-xen", "i386-xen")
_MODULES = "grub-xen-bin"
_PREFIX = "/boot/grub"
#: What stands between what GRUB itself says first and what the script prints; GRUB's own grub-shell has the same.
_HEAD = "664cbea8-132f-4770-8aa4-1696d59ac35c"
#: In the image itself; whatever else a script loads comes from the memdisk.
_BUILT_IN = ("normal", "memdisk", "tar", "configfile", "echo", "halt", "minicmd")
_EPOCH = 1_767_225_600
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """What the script printed; why it ended (poweroff is what it should be), None where time ran out."""

    text: str
    shutdown: str | None
    failure: str = ""


@dataclass(slots=True)
class GrubShell:
    """One run. ``modules`` are loaded first, ``files`` are (place in the image, file) pairs, ``directory`` is where the
    modules of a GRUB of your own are (grub-core of its build folder, with grub-mkimage in that), ``trim`` leaves out
    what comes before
    the script's own output (up to ``head``).
    """

    target: str = TARGETS[0]
    modules: list[str] = field(default_factory=list)
    files: list[tuple[str, Path]] = field(default_factory=list)
    disks: list[str] = field(default_factory=list)
    directory: Path | None = None
    timeout: float = 60.0
    memory: int = 256
    trim: bool = True
    head: str = _HEAD

    def run(self, script: bytes) -> Output:
        """Boot it. InputError for files, disks or modules that cannot be used."""
        with tempfile.TemporaryDirectory(prefix="grub-shell.") as folder:
            kernel = Path(folder) / "grub.elf"
            self._make(kernel, Path(folder), script)
            with Guest.boot(kernel, *self.disks, memory=self.memory) as guest:
                ended = guest.advance(self.timeout)
                text = guest.text
                shutdown = guest.shutdown
                failure = ""
                if ended is None:
                    failure = f"timed out after {self.timeout:g} guest seconds"
                elif shutdown != "poweroff":
                    failure = guest.machine.crash_lines[0] if guest.machine.crash_lines else shutdown or ended.detail
        return Output(self._trimmed(text), shutdown, failure)

    def _trimmed(self, text: str) -> str:
        if not self.trim:
            return text
        _, found, rest = text.partition(f"\n{self.head}")
        return rest.partition("\n")[2] if found else ""

    def _configuration(self) -> str:
        lines = [
            "grubshell=yes", "halt_cmd=halt", "export halt_cmd", "enable_progress_indicator=0",
            "export enable_progress_indicator", "terminfo -g 1024x1024 console dumb",
        ]  # fmt: skip
        if self.trim and self.head == _HEAD:
            lines.append(f"echo; echo {_HEAD}")
        lines += [f"insmod {module}" for module in self.modules]
        # echo sends what is still in the console ring: most other commands leave it there, and then it would be lost
        return "\n".join([*lines, f'source "{_PREFIX}/testcase.cfg"', "echo -n", "halt", ""])

    def _make(self, kernel: Path, folder: Path, script: bytes) -> None:
        packages = PackageCache()
        modules = self.directory
        if modules is None:
            modules = packages.get([_MODULES])[_MODULES].path(f"/usr/lib/grub/{self.target}")
        content: dict[str, bytes | Path] = {
            f"{_PREFIX}/grub.cfg": self._configuration().encode(),
            f"{_PREFIX}/testcase.cfg": script,
        }
        found = [path for pattern in ("*.mod", "*.lst") for path in sorted(modules.glob(pattern))]
        if not found:
            raise ConfigError(f"{modules}: no GRUB modules there; give the folder of a built {self.target} port")
        content.update({f"{_PREFIX}/{self.target}/{path.name}": path for path in found})
        for place, source in self.files:
            if not source.is_file():
                raise ConfigError(f"--files={place}={source}: no such file; give PLACE=FILE, or FILE alone")
            content[str(PurePosixPath("/") / place.lstrip("/"))] = source
        tree: dict[str, Node] = {}
        for path in sorted(content):
            for parent in reversed([*PurePosixPath(path).parents][:-1]):
                tree.setdefault(str(parent), Directory(0o755))
            tree[path] = Regular(0o644, content[path])
        memdisk = folder / "memdisk.tar"
        memdisk.write_bytes(tar_ustar(tree, _EPOCH))
        options: list[str | Path] = ["-d", modules, "-O", self.target, "-o", kernel, "-m", memdisk]
        mkimage = tool("grub-mkimage", packages)
        own = modules.parent / mkimage.name
        if self.directory is not None and own.is_file():
            mkimage = Tool(mkimage.name, own, mkimage.env)
        mkimage.run(*options, "-p", f"(memdisk){_PREFIX}", *_BUILT_IN)
        size = kernel.stat().st_size // _MIB
        self.memory = max(self.memory, 4 * size + 64)
