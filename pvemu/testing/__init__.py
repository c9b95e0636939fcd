"""Driving a machine to a verdict: what to type and when, what to wait for, why it ended."""
