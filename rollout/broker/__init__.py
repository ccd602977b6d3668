"""The delivery protocol over Redis: keys, scripts, the ports of both sides, and what they show of a run."""
