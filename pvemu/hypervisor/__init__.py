"""Xen's state machine for one domain, under the file names of xen/arch/x86/pv and xen/common."""
