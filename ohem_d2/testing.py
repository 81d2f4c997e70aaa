"""For authors of heads: ``check_heads`` tests that RoIs are ranked by the losses trained on."""

from .tools.head_checks import check_heads  # noqa: F401
