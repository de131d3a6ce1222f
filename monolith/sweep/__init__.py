"""Many fits of one job with other settings: what is tried, on which samples, by which processes, with what result."""
