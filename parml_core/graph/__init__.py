"""Tasks and graphs, and what they mean."""

from parml_core.graph.evaluate import evaluate
from parml_core.graph.graph import Graph
from parml_core.graph.task import Hints, Ref, Task

__all__ = ["Graph", "Hints", "Ref", "Task", "evaluate"]
