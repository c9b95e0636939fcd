"""Disk images: raw files and block devices, with a copy-on-write overlay in memory."""
