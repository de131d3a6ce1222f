"""Online training of collisionless embedding tables, from event streams to served rows."""

__version__ = "0.1.0"
