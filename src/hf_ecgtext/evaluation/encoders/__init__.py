"""What is evaluated: checkpoints, random initialisations and measured intervals, as feature vectors."""
