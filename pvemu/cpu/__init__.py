"""The emulated CPU: the engine that runs guest instructions, its registers, and the walk of the guest's page tables."""
