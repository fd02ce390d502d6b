"""Training losses, one file a defence."""

from freqrob.defenses.pgd_at import PGDAT
from freqrob.defenses.standard import Standard

DEFENSES = {"standard": Standard, "pgd_at": PGDAT}

__all__ = ["DEFENSES", "PGDAT", "Standard"]
