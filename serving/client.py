"""A client of ``monolith serve``, with time-outs and retries.

::

    with Client("http://localhost:8080") as client:
        client.lookup("user", [17, 42])                    # (2, dim) float32
        client.predict([{"user": 17, "movie": 50}])        # (1,) float32

Errors: InputError (the server understood and refused: unknown name, wrong type, too many ids), UnavailableError (no
answer in time, or not ready, after all retries), CorruptError (the answer is not one).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from monolith.errors import ConfigError, CorruptError, InputError, UnavailableError
from monolith.events import FeatureValue
from monolith.serving import body
