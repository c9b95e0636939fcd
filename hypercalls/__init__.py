"""Xen's hypercall ABI as a leaf package: the public headers, their layouts in both widths, one module per hypercall.

Nothing here imports ``pvemu``: handlers see the hypervisor only through the protocols of :mod:`hypercalls.context`.
"""
