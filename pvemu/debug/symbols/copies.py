"""Code that runs at another address than its module's: a relocator copies itself out of the way of what it moves.

The frames a module's code lies in are remembered, so that a copy is known even when the tables that mapped the original
are gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypercalls.errors import XenError
from hypercalls.public import errno as e
from pvemu.frames import PAGE_MASK, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.paging import PageWalker
    from pvemu.debug.symbols.match import Readable
    from pvemu.debug.symbols.table import Module
    from pvemu.hypervisor.guest_access import GuestMemory
    from pvemu.memory.ram import Ram

__all__ = ["CodeCopies", "Original"]

#: As many bytes must agree, from the address itself or a little behind it (a loader patches operands).
_NEEDLE, _REACH, _STEP = 12, 48, 4
#: The share of the bytes on one side that must agree: operands are patched in each copy.
_ENOUGH = 0.75


class _Text(NamedTuple):
    stage: int
    module: Callable[[Readable], Module]
    address: int
    pieces: tuple[tuple[int, int], ...]  # (machine address, size)
    ram: Ram

    def copy_from_guest(self, vaddr: int, size: int) -> bytes:
        """What the frames hold now of what was at a guest address."""
        at = vaddr - self.address
        content = b"".join(self.ram.read(maddr, length) for maddr, length in self.pieces)
        if at < 0 or at + size > len(content):
            raise XenError(e.EFAULT, f"{vaddr:#x} is not in this module")
        return content[at : at + size]


class Original(NamedTuple):
    """Where a copy comes from: ``address`` is in ``module`` of ``stage``."""

    stage: int
    address: int
    text: _Text

    @property
    def module(self) -> Module:
        """The module, with its symbols."""
        return self.text.module(self.text)


class CodeCopies:
    """The code of all modules known so far, searched for the bytes at an address that belongs to none."""

    def __init__(self, ram: Ram, walker: PageWalker, guest: GuestMemory) -> None:
        self._ram = ram
        self._walker = walker
        self._guest = guest
        self._texts: list[_Text] = []

    def remember(self, stage: int, address: int, size: int, module: Callable[[Readable], Module]) -> None:
        """Note which frames hold what is at [address, address + size) now; ``module`` tells what that is."""
        pieces = []
        at, end = address, address + size
        while at < end:
            step = min(end - at, PAGE_SIZE - (at & PAGE_MASK))
            maddr = self._walker.lookup(at)
            if maddr is None:
                break
            pieces.append((maddr, step))
            at += step
        if pieces:
            self._texts.append(_Text(stage, module, address, tuple(pieces), self._ram))

    def find(self, address: int) -> Original | None:
        """The place that the code at ``address`` was copied from; None unless there is exactly one."""
        code, before = self._code_at(address, _REACH), self._code_at(address - _REACH, _REACH)
        contents = [(text, self._content(text)) for text in self._texts]
        for skip in range(0, len(code) - _NEEDLE + 1, _STEP):
            needle = code[skip : skip + _NEEDLE]
            if len(set(needle)) < _NEEDLE // 2:
                continue  # zeros and the like are everywhere
            found = [
                one
                for one in self._search(contents, needle, skip)
                if one.address != address and self._agrees(one, before, code)  # what was unloaded is no copy of itself
            ]
            if found:
                return found[0] if len(found) == 1 else None
        return None

    def _agrees(self, original: Original, before: bytes, code: bytes) -> bool:
        """Whether what stands around the address and around the original is the same too, on one side at least: at its
        ends a copy has other neighbours.
        """
        content, at = self._content(original.text), original.address - original.text.address
        sides = ((content[at : at + len(code)], code), (content[max(0, at - len(before)) : at][::-1], before[::-1]))
        return any(
            sum(one == other for one, other in zip(own, copied, strict=False)) >= len(copied) * _ENOUGH
            for own, copied in sides
            if copied
        )

    def _code_at(self, address: int, size: int) -> bytes:
        """Up to ``size`` bytes, as many as are mapped on that page."""
        for length in (size, min(size, PAGE_SIZE - (address & PAGE_MASK))):
            try:
                return self._guest.copy_from_guest(address, length)
            except XenError:
                continue
        return b""

    def _content(self, text: _Text) -> bytes:
        return b"".join(self._ram.read(maddr, size) for maddr, size in text.pieces)

    @staticmethod
    def _search(contents: list[tuple[_Text, bytes]], needle: bytes, skip: int) -> list[Original]:
        found = []
        for text, content in contents:
            at = content.find(needle)
            if at >= skip and content.find(needle, at + 1) < 0:
                found.append(Original(text.stage, text.address + at - skip, text))
        return found
