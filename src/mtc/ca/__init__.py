"""The certification authority: requests become log entries, entries become certificates."""
