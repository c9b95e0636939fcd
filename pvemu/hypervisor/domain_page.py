"""Pages of the guest's that the hypervisor keeps mapped for itself (xen/common/domain_page.c, map_domain_page_global).

Each is held by a reference and a writable type, so that it can become neither a page table nor somebody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercalls.errors import XenError
from hypercalls.public.errno import EINVAL
from pvemu.frames import Mfn
from pvemu.memory.frame_table import PageType

if TYPE_CHECKING:
    from pvemu.hypervisor.page_types import PageTypes
    from pvemu.memory.ram import Ram

__all__ = ["DomainPages"]


class DomainPages:
    """Maps frames of the domain whose references ``types`` keeps."""

    def __init__(self, ram: Ram, types: PageTypes) -> None:
        self._ram = ram
        self._types = types

    def map(self, gfn: int) -> memoryview:
        """The 4096 bytes of the frame. EINVAL for one that is not the guest's or that it could not write to either."""
        try:
            self._types.get_page_and_type(gfn, PageType.WRITABLE)
        except XenError as error:
            raise XenError(EINVAL, f"frame {gfn:x}: {error.reason}") from error
        return self._ram.frame(Mfn(gfn))

    def unmap(self, gfn: int) -> None:
        """Give a mapped frame back."""
        self._types.put_page_and_type(gfn)
