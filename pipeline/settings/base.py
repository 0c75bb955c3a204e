"""What every section of a recipe is made of."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may stand in the list once")
    return values


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]  # float32 ends at 3.4e38
NotNegative = Annotated[float, Field(ge=0, le=1e30)]
Count = Annotated[int, Field(ge=1, le=10**9)]  # what libraries written in C can count to
Number = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
EachOnce = AfterValidator(_each_once)


class Section(BaseModel):
    """Frozen, and strict: an unknown key is an error, and so are `"8"` and `true` for numbers.

    A whole number may stand for a real one, but not 8.0 for 8; infinity and NaN are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, content: Any) -> Any:
        """What YAML's lists become; strict, pydantic takes nothing but a tuple for a tuple."""
        if not isinstance(content, dict):
            return content
        return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
