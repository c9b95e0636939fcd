"""Where distributions keep GRUB's Xen ports, so that ``firmware="pvgrub64"`` and a missing loader can be answered."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PATHS", "find_loader", "loader_of"]

#: By the name that ``firmware=`` takes: Xen's own places, then Debian's and Ubuntu's, openSUSE's, Fedora's, Qubes'.
PATHS: dict[str, tuple[str, ...]] = {
    "pvgrub64": (
        "/usr/lib/xen/boot/pvgrub64.bin",
        "/usr/lib/xen-4.17/boot/pvgrub64.bin",
        "/usr/libexec/xen/boot/pvgrub64.bin",
        "/usr/local/lib/xen/boot/pvgrub64.bin",
        "/usr/lib/grub-xen/grub-x86_64-xen.bin",
        "/usr/share/grub2/x86_64-xen/grub.xen",
        "/usr/lib/grub2/x86_64-xen/grub.xen",
        "/var/lib/qubes/vm-kernels/pvgrub2/vmlinuz",
        "/boot/xen/pvboot-x86_64.elf",
    ),
    "pvgrub32": (
        "/usr/lib/xen/boot/pvgrub32.bin",
        "/usr/lib/xen-4.17/boot/pvgrub32.bin",
        "/usr/libexec/xen/boot/pvgrub32.bin",
        "/usr/local/lib/xen/boot/pvgrub32.bin",
        "/usr/lib/grub-xen/grub-i386-xen.bin",
        "/usr/share/grub2/i386-xen/grub.xen",
        "/usr/lib/grub2/i386-xen/grub.xen",
        "/boot/xen/pvboot-i386.elf",
    ),
}


def find_loader(name: str) -> str | None:
    """The first of a loader's usual paths that this machine has."""
    return next((path for path in PATHS[name] if Path(path).is_file()), None)


def loader_of(path: str) -> str | None:
    """Which loader ``path`` is a usual place of."""
    return next((name for name, paths in PATHS.items() if path in paths), None)
