"""The commands of ``monolith``, one module each: `add_parser` declares it, `run` does it."""
