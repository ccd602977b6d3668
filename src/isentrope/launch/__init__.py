"""Start, supervision and end of the processes of one run: broker, Ray, rollout actors, learner ranks."""
