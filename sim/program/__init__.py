"""Which instructions: where layers lie in memory, how rows are cut up, and the program that runs
them. A spec and shapes are all that this takes; values of weights are no part of it."""
