"""The xenstore: xenstored's tree, its rules and requests, a guest's ring and dom0's clients.

``server`` is the front door, ``ring`` serves a guest, ``toolstack`` writes what libxl writes, ``dump`` prints the tree.
Mirrors tools/xenstore of Xen 4.17.
"""
