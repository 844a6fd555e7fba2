"""The control plane: plans a job, runs it on Ray, keeps its record."""
