"""Starts, watches and ends the processes of one run: broker, Ray, rollout actors, learner ranks.

Knows who must be alive and in which order they stop; not what they say to each other.
"""
