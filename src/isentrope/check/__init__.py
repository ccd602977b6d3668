"""Check of everything a run file points to, before anything is started: objective, data, rewards, model, machine.

It goes on after a mistake, so that all mistakes are reported at once. It starts no engine and opens no broker.
"""
