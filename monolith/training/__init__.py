"""The torch side: modules over tables, models, the trainer. torch and torchrec are imported here and nowhere else."""
