"""This module makes the process that forks runs end with its sweep, even during its other imports, which take seconds,
and keeps these imports from being looked through for garbage; `pool.work` collects again.

That process imports this module before all else, and no other process may import it.
"""

import gc

from peft_vision.core.stopping import die_with_parent

die_with_parent()
gc.disable()
