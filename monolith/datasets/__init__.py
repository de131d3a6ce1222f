"""Streams to try things on: MovieLens-100K, fetched by the user, and a generated one whose best AUC is known."""
