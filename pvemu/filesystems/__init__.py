"""Partition tables and file systems, read-only: which file a disk's sectors belong to, and what a file holds."""
