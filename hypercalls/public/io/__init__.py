"""The headers of the split drivers (xen/include/public/io)."""
