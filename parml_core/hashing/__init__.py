"""
Content tokens: equal work gets an equal key, in every process and every run.

`tokenize` walks a value like pickle does and hashes what it finds: scalars and containers as they are, large buffers without a
copy, everything else by its *normal form*, a tuple of simpler values. Where the normal form comes from, in this order:

1. the method ``__parml_token__()`` of its class,
2. a function registered with `normal_form_of` for the class or one of its bases, by name, so that no library is imported here,
3. what the object tells pickle (``__reduce_ex__``), which is its class and state.

What has none of these (a lock, an open file, a bare ``object()``) gets a random token: work is then done twice rather than
wrongly shared. The rules that are not obvious:

- Types count: ``1``, ``1.0`` and ``True`` differ, and so do a list and a tuple.
- The order of a set never counts. The order of a dict does, for it is visible to whoever gets the dict (``DataFrame({...})``);
  that of an object's attributes does not.
- The memory layout of an array and the chunks of an Arrow column do not count.
- A function or class that can be imported is its module and name. Others (of ``__main__``, local ones, lambdas) are their code,
  defaults, closure and the globals which that code names.
"""

from parml_core.hashing import arrays, frames, objects  # noqa: F401  registers their normal forms
from parml_core.hashing.forms import Attributes, Joined, Unique, normal_form_of
from parml_core.hashing.walk import tokenize

__all__ = ["Attributes", "Joined", "Unique", "normal_form_of", "tokenize"]
