"""Cosigners: witnesses and mirrors, what they may sign, and the words they speak.

`machine` and `mirroring` decide, `requests` and `upload` are the formats of the protocol, `logs` says which logs are
known; `service` runs it.

Spec: C2SP tlog-witness, tlog-mirror, mtc-tlog; Merkle Tree Certificates, "Cosigners".
"""
