"""How jobs, endpoints, replicas and nodes move on: pure functions from a state to the next.

Nothing here remembers what it asked for. Each function looks at what is there now and says what
should be there next, so it may be run again at any time, by anybody, after any crash.
"""
