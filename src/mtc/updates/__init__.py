"""The update service for relying parties: it pulls many CAs, proves their landmarks, and publishes versions and deltas.

Nobody needs to trust it for landmarks, because it publishes the proofs too. Its policy key says what proofs cannot.
"""
