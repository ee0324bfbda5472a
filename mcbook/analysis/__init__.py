"""What is measured on networks and along paths."""

from .profiles import Profile, profile

__all__ = ["Profile", "profile"]
