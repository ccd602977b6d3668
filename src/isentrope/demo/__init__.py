"""The demo: a model small enough to learn on a laptop, and the run that teaches it. A recipe of the library like any
other; nothing in it is special."""
