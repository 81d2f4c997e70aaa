"""For authors of heads: ``check_heads`` says whether OHEM ranks them by what they train on."""

from .tools.head_checks import check_heads  # noqa: F401
