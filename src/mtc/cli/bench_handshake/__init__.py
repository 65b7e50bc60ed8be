"""`mtc bench handshake`: what each kind of certificate costs a TLS 1.3 handshake, in bytes, round trips and time.

One client program and one server program, each a process of its own, shake hands in turns with every kind: over
loopback, where processors are compared, and through namespaces with the delay and loss of real ways, where bytes are.
"""
