"""Readers: where the partitions of a frame come from."""
