"""Depots of published files: where they lie, how they are fetched, and each machine's cache of them."""
