"""What is compiled at first use: convolutions, neurons, and the builder of C code.

A machine without a compiler, without oneDNN or of another kind takes XLA's path, and `describe`
says in one line which path is taken and why.
"""

from jaxsnn.native.builder import build, find_compiler
from jaxsnn.native.convolutions import describe
from jaxsnn.native.onednn import begin
from jaxsnn.native.processor import choose_dtype

__all__ = ["begin", "build", "choose_dtype", "describe", "find_compiler"]
