"""Stopping a run, looking around, and going back: what debuggers and replays are made of. Above the machine."""
