"""Estimates what a unit needs. Passes are traced on the meta device; memory, traffic and work are computed from the traces."""
