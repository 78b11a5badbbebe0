"""Kernels that the course shows or measures, and that no lab has to write."""
