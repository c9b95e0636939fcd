"""What Xen does otherwise for a 32-bit PV guest, by the names of its compat files and branches."""
