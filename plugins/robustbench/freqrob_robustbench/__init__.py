"""freqrob in RobustBench, and RobustBench's models in freqrob.

After ``register()``, ``robustbench.load_model`` and ``robustbench.benchmark`` accept freqrob's models. Importing this
package does not import RobustBench or its dependencies.
"""

from freqrob_robustbench.compatibility import import_robustbench
from freqrob_robustbench.entries import register
from freqrob_robustbench.export import Export, Paper, export
from freqrob_robustbench.zoo import load_from_zoo

__all__ = ["Export", "Paper", "export", "import_robustbench", "load_from_zoo", "register"]
