"""The reference: keys of the run file, stages, outputs, methods and exit codes, each with its entry.

Entries are read from where the things are declared: docstrings of fields, signatures and docstrings of stages, presets
and errors. `isentrope help` prints them, and `python -m isentrope.handbook` writes `docs/configuration.md`,
`docs/metrics.md` and the users of a broker, `deploy/redis/users.acl`.
"""
