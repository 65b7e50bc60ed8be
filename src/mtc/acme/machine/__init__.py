"""What ACME decides, without a clock, a disk or a network: values, states, limits and their reasons."""
