"""A guest that stands still, as text: what `pvemu debug` and gdb's `monitor` command show."""
