"""Core ML on Apple's machines, in child processes: plans, runs, and a forecast elsewhere."""
