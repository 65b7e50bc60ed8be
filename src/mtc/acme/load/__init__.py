"""Many ACME clients in one event loop, for measurements and for tests that need a crowd.

They do what real clients do and check what they get, but cost little: the machine is shared with the server.
"""
