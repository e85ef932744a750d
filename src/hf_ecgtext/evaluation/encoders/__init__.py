"""What is evaluated: checkpoints, random twins and measured intervals, as feature vectors."""
