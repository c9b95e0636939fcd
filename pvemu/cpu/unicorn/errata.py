"""Instructions that the engine runs and the CPU of pvemu.cpu.cpuid does not: they are made #UD.

VZEROUPPER and VZEROALL (no AVX), XBEGIN (no RTM), and far branches with REX.W, whose operand AMD's CPUs read in another
way than the engine, which decodes for Intel: what handles #UD does them. Frames are searched for their bytes when code
is first fetched from them; only where they stand is a hook, and it asks the engine how long it takes the instruction
for. What is not found: one that crosses a page, or that the guest stores into a page which it has run before.
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
#: An XBEGIN whose handler is near: as the same bytes in other instructions hardly ever go on.
_WANTED = re.compile(
    rb"\xc5[\xf8\xfc]\x77|\xc7\xf8..(?:\x00\x00|\xff\xff)|[\x48-\x4f]\xff[" + re.escape(_MODRM_3_OR_5) + rb"]",
    re.DOTALL,
)
_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
#: Each one costs a little whenever code is translated.
_MAX_HOOKS = 64


class Errata:
    """For one CPU. ``found`` has the places in each frame that code was fetched from, by its machine address; ``pages``
    the frames that pages with such places stand for now, by linear address. ``refuse`` is called where one begins.
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
        offsets = []
        for match in _WANTED.finditer(frame):
            at = match.start()
            offsets.append(at)
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
            match = _WANTED.match(code.lstrip(bytes(_PREFIXES)) + bytes(2))
            if match is not None and match.end() <= size + 2 and size > 2:
                self._refuse()
        except BaseException as error:  # noqa: BLE001 - must not cross C; raised again by run()
            self._keep_error(error)
