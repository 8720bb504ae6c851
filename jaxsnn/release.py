"""The release of the code that runs; what is installed beside a checkout may be an older one."""

__all__ = ["RELEASE"]

RELEASE = "0.2.0"
