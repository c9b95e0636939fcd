"""Traces: what a guest did, as text and in the formats of other tools. They change nothing in what they watch."""
