"""Scenarios: what a guest is started with, what is typed, and what must come of it, as data in TOML."""
