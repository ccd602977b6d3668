"""Runs beside each other: one page, and the same as JSON, from what their folders hold."""
