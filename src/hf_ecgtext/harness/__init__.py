"""The benchmark: models, a matrix of jobs that survives a kill, result lines, paired comparisons."""
