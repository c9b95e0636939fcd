"""Observers: what ran, what it did, why it died. They decide nothing that the guest could notice."""
