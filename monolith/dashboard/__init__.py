"""What a running trainer shows over HTTP: a live page, its curves, and metrics for Prometheus."""
