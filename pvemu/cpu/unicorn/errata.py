"""Instructions that the engine runs and the CPU of pvemu.cpu.cpuid does not: they are made #UD.

XBEGIN (there is no RTM), and far branches with REX.W, whose operand AMD's CPUs read in another way than the engine,
which decodes for Intel: what handles #UD does them. Frames are searched for their bytes when code is first fetched from
them; only where they stand is a hook, and it asks the engine how long it takes the instruction for. What is not found:
one that crosses a page, or that the guest stores into a page which it has run before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unicorn import unicorn_const

from pvemu.cpu.unicorn.native import CODE
from pvemu.frames import PAGE_MASK, PAGE_SHIFT, Mfn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pvemu.cpu.unicorn.native import Native
    from pvemu.memory.ram import Ram

__all__ = ["Errata"]

_MODRM_3_OR_5 = bytes(mod << 6 | reg << 3 | rm for mod in range(3) for reg in (3, 5) for rm in range(8))
#: A far branch, behind its REX.W; an XBEGIN whose handler is near, as the same bytes in other instructions hardly ever
#: go on. Each begins with a literal: the search takes a few microseconds a page.
_FAR = re.compile(rb"\xff[" + re.escape(_MODRM_3_OR_5) + rb"]")
_XBEGIN = re.compile(rb"\xc7\xf8..(?:\x00\x00|\xff\xff)", re.DOTALL)
_REX_W = frozenset(range(0x48, 0x50))
#: LEA -1(...): the commonest place of these bytes.
_LEA = 0x8D
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
#: Each one costs a little whenever code is translated.
_MAX_HOOKS = 64


class Errata:
    """For one CPU. ``found`` has the places in each frame that code was fetched from, by its machine address; ``pages``
    the frames that pages with such places show at present, by linear address. ``refuse`` is called where one begins.
    """

    def __init__(
        self, native: Native, ram: Ram, refuse: Callable[[], None], keep_error: Callable[[BaseException], None]
    ) -> None:
        self._native = native
        self._refuse = refuse
        self._keep_error = keep_error
        self._ram = ram
        self._armed: set[int] = set()
        self._on_code_c = CODE(self._reached)
        self.found: dict[int, tuple[int, ...]] = {}
        self.pages: dict[int, int] = {}

    def look_at(self, vaddr: int, maddr: int) -> None:
        """Code may be fetched from the page at ``vaddr`` now, which is the frame at ``maddr``."""
        offsets = self.found.get(maddr)
        if offsets is None:
            mfn = Mfn(maddr >> PAGE_SHIFT)
            offsets = self._search(self._ram.frame(mfn)) if self._ram.contains(mfn) else ()
            self.found[maddr] = offsets
        if offsets or vaddr in self.pages:
            self.pages[vaddr] = maddr
        for offset in offsets:
            address = vaddr + offset
            if address not in self._armed and len(self._armed) < _MAX_HOOKS:
                self._armed.add(address)
                self._native.hook(unicorn_const.UC_HOOK_CODE, self._on_code_c, first=address, last=address)

    def _search(self, frame: memoryview) -> tuple[int, ...]:
        """Where one of them may begin, with its prefixes."""
        found = [match.start() for match in _XBEGIN.finditer(frame)]
        for match in _FAR.finditer(frame):
            at = match.start() - 1
            if at >= 0 and frame[at] in _REX_W and (at == 0 or frame[at - 1] != _LEA):
                found.append(at)
        offsets = list(found)
        for start in found:
            at = start
            while at and frame[at - 1] in _PREFIXES:
                at -= 1
                offsets.append(at)
        return tuple(offsets)

    def _reached(self, _uc: int, address: int, size: int, _data: int) -> None:
        """An instruction of ``size`` bytes begins where there was one of them, in this address space or another."""
        try:
            maddr = self.pages[address & ~PAGE_MASK]
            if not self._ram.contains(maddr >> PAGE_SHIFT):
                return
            code = self._ram.read(maddr | address & PAGE_MASK, size)
            code = code.lstrip(bytes(_PREFIXES))
            if _XBEGIN.match(code) or (len(code) > 2 and code[0] in _REX_W and _FAR.match(code, 1)):
                self._refuse()
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self._keep_error(error)
