"""What stands between a partition and its file system: MD arrays and LVM volumes, written without any device."""
