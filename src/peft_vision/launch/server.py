"""What the process that forks runs imports before all else, which takes seconds: it ends with the sweep from then on.

Nobody else may import this.
"""

from peft_vision.lifeline import die_with_parent

die_with_parent()
