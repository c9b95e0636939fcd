"""The back ends that dom0 would run, and the store and rings they share with the guest."""
