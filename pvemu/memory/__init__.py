"""Machine memory, who owns each frame and as what type, and the machine-to-physical table."""
