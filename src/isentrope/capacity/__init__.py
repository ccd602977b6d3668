"""Capacity that a run needs: sizes, memory, time and actors, by arithmetic alone. Starts nothing."""
