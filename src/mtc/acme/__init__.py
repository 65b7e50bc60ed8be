"""ACME: a server that validates and logs as one act, the perspectives it validates from, and a client.

`machine` decides (identifiers, orders, problems, CAA, quorum), `store` keeps, `validation` looks, `server` answers, and
`client` is the other side.

Spec: RFC 8555; RFC 8737 (tls-alpn-01); RFC 8738 (IP identifiers); RFC 8659 and 8657 (CAA); RFC 9773 (renewal
information); Merkle Tree Certificates, "ACME Extensions".
"""
