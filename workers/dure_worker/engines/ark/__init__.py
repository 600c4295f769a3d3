"""Torch with weight-only kernels: the fast engine of x86 boxes with VNNI."""
