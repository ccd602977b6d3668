"""Prompts: data files and tasks into rows, rows into tokens."""
