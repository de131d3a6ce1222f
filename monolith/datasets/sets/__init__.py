"""Data sets of labelled samples: what each is, how its files are read, split and prepared (`monolith data`)."""
