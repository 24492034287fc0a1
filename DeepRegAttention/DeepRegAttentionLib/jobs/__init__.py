"""Asking the worker: what both sides say to each other, and the client that keeps it warm."""
