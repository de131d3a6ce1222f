"""A replica over HTTP: Starlette on uvicorn.

====================  =============================================================================================
``POST /lookup``      ``{"name": "user", "values": [17, 42]}`` or, for services, a body of ``application/x-monolith``
``POST /predict``     ``{"samples": [{"user": 17, "movie": 50}]}``
``GET /health``       200 while the process lives
``GET /ready``        200 when it can answer, else 503 with the reason
``GET /version``      what is served, how fresh and how stale it is
``GET /metrics``      Prometheus
====================  =============================================================================================

An error is JSON ``{"error": "what was wrong, what is allowed"}``: 400 for a body that is not understood, 404 for an
unknown table or feature, 413 for too much, 415 for a content type that is not one of the two, 503 when not ready.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monolith.errors import ConfigError, CorruptError, InputError, UnavailableError
from monolith.events import FeatureValue
from monolith.serving import body, metrics
from monolith.serving.replica import Mode, Replica
