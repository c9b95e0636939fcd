"""nmi_op (public/nmi.h)."""

from __future__ import annotations

from hypercalls.declare import cstruct, ulong

XEN_NMIREASON_io_error = 1 << 0
XEN_NMIREASON_pci_serr = 1 << 1
XEN_NMIREASON_unknown = 1 << 2
XENNMI_register_callback = 0
XENNMI_unregister_callback = 1


@cstruct
class xennmi_callback:
    handler_address: ulong = 0
    pad: ulong = 0
