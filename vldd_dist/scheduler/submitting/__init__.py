"""Which units start next: those that are ready, and that the machines have room for."""
