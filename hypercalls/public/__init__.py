"""Xen's public headers (xen/include/public), one module per header, with its names and constants verbatim.

Structures are declared once for both widths (:mod:`hypercalls.declare`); :mod:`hypercalls.abi` knows sizes and
offsets.
"""
