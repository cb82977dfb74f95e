"""A backbone for the Edge TPU: what will run there, the compiler's word on it, and whether the twin fits."""
