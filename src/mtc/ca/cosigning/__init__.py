"""The cosigners of a CA: which there are and when they suffice, and asking them in every round."""
