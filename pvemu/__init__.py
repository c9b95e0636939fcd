"""pvemu boots Xen x86 PV guests on an emulated CPU, so that boot loaders can be tested on any machine."""
