"""The CPU itself: Unicorn (QEMU's TCG) behind :class:`pvemu.cpu.unicorn.engine.Engine`. Only this room knows Unicorn.

The engine's own MMU is off (``UC_TLB_VIRTUAL``): every TLB miss asks the machine, which walks the guest's tables and so
knows the access type, sees 64-bit CR3 and needs no slot in the guest's address space for the hypervisor.
"""
