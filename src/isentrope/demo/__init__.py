"""The demo: a model small enough to learn on a laptop, and the ordinary run that trains it."""
