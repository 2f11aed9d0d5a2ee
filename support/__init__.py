"""What the scripts share and a reader of the paper need not see.

Here live the command line, checkpoint files, resuming, sweeps and what a run prints. Modules here
import `layers`, `dataset`, `training_params` and each other; never a script, never `results`.
"""
