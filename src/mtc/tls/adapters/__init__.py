"""Back ends that bring Merkle Tree certificates into TLS libraries."""
