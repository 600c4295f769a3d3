"""Ranges of the sampling values that requests and personas may name."""

from typing import Annotated

from pydantic import Field

Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=1, le=1000)]
MinP = Annotated[float, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[float, Field(ge=0.5, le=2)]
DryMultiplier = Annotated[float, Field(ge=0, le=5)]
DryBase = Annotated[float, Field(ge=1, le=4)]
DryAllowedLength = Annotated[int, Field(ge=1, le=100)]
