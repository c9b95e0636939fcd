"""gdb's remote serial protocol: a stock gdb drives a guest, in both directions."""
