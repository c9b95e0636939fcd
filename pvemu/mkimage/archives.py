"""Archives as bytes: newc cpio for an initramfs, ustar for GRUB's memdisk. Owners are root, times the recipe's."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from pvemu.mkimage.tree import Directory, Link, Node, Regular, Tree

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cpio_newc", "tar_ustar"]


def cpio_newc(tree: Tree, epoch: int) -> bytes:
    """The archive that a kernel unpacks as its initramfs.

    Linux describes it in Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    out = bytearray()
    nodes: Mapping[str, Node] = {"/.": Directory(0o755), **tree}
    for inode, (path, node) in enumerate(nodes.items(), start=1):
        match node:
            case Directory(mode=permissions):
                mode, links, data = 0o040000 | permissions, 2, b""
            case Link(target=link):
                mode, links, data = 0o120777, 1, link.encode()
            case Regular(mode=permissions):
                mode, links, data = 0o100000 | permissions, 1, node.read()
        _cpio_member(out, path[1:], (inode, mode, 0, 0, links, epoch, len(data)), data)
    _cpio_member(out, "TRAILER!!!", (0, 0, 0, 0, 1, 0, 0), b"")
    return bytes(out.ljust(-(-len(out) // 512) * 512, b"\0"))


def _cpio_member(out: bytearray, name: str, fields: tuple[int, ...], data: bytes) -> None:
    encoded = name.encode() + b"\0"
    # after the size: device and rdevice numbers, the name's length, a checksum that newc leaves 0
    numbers = (*fields, 0, 0, 0, 0, len(encoded), 0)
    out += b"070701" + "".join(f"{number:08X}" for number in numbers).encode() + encoded
    out += bytes(-len(out) % 4)
    out += data
    out += bytes(-len(out) % 4)


def tar_ustar(tree: Tree, epoch: int) -> bytes:
    """The tar that GRUB mounts as (memdisk)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, node in tree.items():
            member = tarfile.TarInfo(path[1:])
            member.mtime = epoch
            data = b""
            match node:
                case Directory(mode=mode):
                    member.type, member.mode = tarfile.DIRTYPE, mode
                case Link(target=link):
                    member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, link
                case Regular(mode=mode):
                    data = node.read()
                    member.mode, member.size = mode, len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
