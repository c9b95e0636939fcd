"""Where guest code traps: exits, exceptions, what Xen emulates, and what it delivers to the guest kernel
(xen/arch/x86/traps.c, msr.c, x86_64/entry.S, pv/{traps,emulate,emul-priv-op,emul-gate-op,emul-inv-op,ro-page-fault}.c).
"""
