"""Running cosigners: the witness, the mirror, their folders and servers, and clients that ask others to cosign."""
