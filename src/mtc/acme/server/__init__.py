"""The ACME server: signed requests in, values read, a decision, one commit, an answer."""
