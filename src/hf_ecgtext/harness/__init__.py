"""The benchmark: entrants, a matrix of cells that survives a kill, result lines, paired comparisons."""
