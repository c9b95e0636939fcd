"""The PV domain builder: from a kernel file to a domain in memory, in libxc's stages (see build.py)."""
