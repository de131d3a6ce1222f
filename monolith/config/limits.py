"""Number types of the job file that carry their own limits; the loader refuses a value outside them.

The limits bind values that come from a file or an option. A struct built in Python is checked where it is used.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
ShareOrNone = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
NonNegativeCount = Annotated[int, Meta(ge=0)]

# Text that may hold a secret: its references (`monolith.secrets`) stay in it, and are replaced just before use. So
# what reads it calls `monolith.secrets.reveal` (or gives it to what does), and what shows it calls `masked`.
LateText = Annotated[str, Meta(extra={"late": True})]
