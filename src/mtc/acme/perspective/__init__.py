"""Remote perspectives: agents elsewhere in the network that look at an applicant for a CA, and the CA's side of it.

`mtc.acme.perspective.config`: who they are, in `acme.toml`. `mtc.acme.perspective.client`: how the CA asks one.
`mtc.acme.perspective.corroboration`: asking all of them, and the quorum. `mtc.acme.perspective.folder` and
`mtc.acme.perspective.agent`: the agent itself, a program of its own.
"""
