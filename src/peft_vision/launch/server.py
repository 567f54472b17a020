"""Has the process that forks runs end with its sweep, even during the imports that follow, which take seconds.

That process imports this module before all else, and no other may import it.
"""

from peft_vision.lifeline import die_with_parent

die_with_parent()
